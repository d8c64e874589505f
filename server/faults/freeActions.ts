// SPDX-License-Identifier: Apache-2.0
/** Actions that stand for themselves: they alter nothing of what takes place at a point, and so go with any. */
import { enums, NO_STREAM } from '../../protocol/messages.ts'
import { resultName } from '../policy/result.ts'
import { warningByCode } from '../policy/warnings.ts'
import { hex } from '../smmu/bits.ts'
import * as r from '../smmu/registers.ts'
import { type ArmedRule, sidNow } from './armed.ts'
import type { ArmedMachine } from './armedMachine.ts'
import { changeBytes } from './change.ts'
import { devicePage } from './devicePage.ts'
import { produceEvents } from './eventQueue.ts'
import { CERROR } from './hostView.ts'
import { big, halvesOf, rangeOf } from './names.ts'
import type { WhatOf } from './rule.ts'
import type { SmmuFaults } from './smmuFaults.ts'
import { stage2Descriptors } from './stage2.ts'

export class FreeActions {
  readonly #machine: ArmedMachine
  /** A trap, or a reset, is being decided. */
  deciding = false
  /** A translation is being answered. */
  translating = false
  /** Pages change hands because a rule says so. */
  #moving = false
  /** What waits until the hypervisor is done. */
  #later: (() => void)[] = []

  constructor(machine: ArmedMachine) {
    this.#machine = machine
  }

  /** What a rule is about took place: if it fires, its action is carried out. */
  try(armed: ArmedRule, smmu: number): void {
    if (armed.trigger.match(this.#machine.time)) this.act(armed, smmu)
  }

  /** Carries out the action of a rule that fires; some wait for `settle`. @param smmu that it is about */
  act(armed: ArmedRule, smmu: number): void {
    const machine = this.#machine
    const { what } = armed.rule
    switch (what.do) {
      case 'delay':
        machine.fired(armed, `${what.ms} ms`, what.ms)
        sleep(what.ms)
        return
      case 'reset':
        return machine.fired(armed, 'machine reset', 0, 0, what)
      case 'pause':
        return machine.fired(armed, `vCPUs stand still for ${what.ms} ms`, what.ms, 0, what)
      case 'disconnect':
        machine.fired(armed, 'connection cut')
        return machine.context.cut()
      case 'kill':
        machine.fired(armed, 'trap thread ends')
        return machine.context.die()
    }
    // The rest uses hardware, tables or the hypervisor: not while a translation or a trap is being decided. Pages that change
    // hands may make a rule fire that moves pages: one after the other, or it would never end.
    const moves = what.do === 'donate' || what.do === 'reclaim'
    const delayed = this.translating || (moves && (this.deciding || this.#moving))
    const carryOut = () => machine.fired(armed, this.#carryOut(armed, smmu), smmu)
    if (delayed) this.#later.push(carryOut)
    else carryOut()
  }

  /** Carries out what had to wait. */
  settle(): void {
    for (const act of this.#later.splice(0)) act()
  }

  /** Makes global errors active, with their interrupt. @param bits of GERROR */
  raise(smmu: SmmuFaults, bits: number): void {
    smmu.view.raise(bits)
    this.#machine.context.irq(smmu.index, enums.irqLine.gerror[0])
  }

  /** @returns what was done, in words. */
  #carryOut({ rule: { what } }: ArmedRule, index: number): string {
    const { context, memory, time, trap, smmus } = this.#machine
    const smmu = smmus[index]
    if (smmu === undefined) return `there is no SMMU ${index}`
    switch (what.do) {
      case 'irq': {
        const [line] = enums.irqLine[what.line]
        const pulses = what.count ?? 1
        for (let i = 0; i < pulses; i++) context.irq(index, line)
        return `${pulses} × interrupt ${what.line}`
      }
      case 'lose-irq': {
        const bits = what.lines.reduce((all, line) => all | IRQ_ENABLE[line], 0)
        smmu.view.mask(bits, what.ms === undefined ? Number.POSITIVE_INFINITY : time + what.ms * 1e6)
        return `interrupts ${what.lines.join(', ')} lost from now on`
      }
      case 'gerror': {
        const bits = what.bits.reduce((all, bit) => all | GERROR[bit], 0)
        if (what.error !== undefined && (bits & r.GERROR_CMDQ_ERR) !== 0) {
          const cons = this.#machine.readAsGuest(index, r.ARM_SMMU_CMDQ_CONS, 4).lo & 0xf_ffff
          smmu.view.stand(cons, CERROR[what.error], Number.POSITIVE_INFINITY)
        }
        this.raise(smmu, bits)
        return `GERROR ${what.bits.join(' ')}`
      }
      case 'event': {
        const sid = what.sid === undefined ? 0 : sidNow(what.sid, context.devices)
        if (sid === NO_STREAM) return `${what.sid} is not there`
        const text = produceEvents(memory, smmu.hardware, what, sid)
        context.irq(index, enums.irqLine.evtq[0])
        return text
      }
      case 'warn': {
        const warning = warningByCode(context.policy.inspect?.warnings ?? [], what.warning)
        if (warning === undefined) return `policy ${context.policy.name} has no warning ${what.warning}`
        context.warn(warning, trap, index)
        return `${what.warning} forced`
      }
      case 'corrupt':
        return this.#corrupt(smmu, what)
      case 'donate':
      case 'reclaim':
        return this.#givePages(smmu, what)
      case 'lose-state':
        context.loseState(index)
        return 'registers and caches lost'
      case 'malformed':
        context.garble()
        return 'a frame that is none'
      default:
        return what.do
    }
  }

  #corrupt(smmu: SmmuFaults, what: WhatOf['corrupt']): string {
    const { context, memory } = this.#machine
    const sid = what.sid === undefined ? 0 : sidNow(what.sid, context.devices)
    if (sid === NO_STREAM) return `${what.sid} is not there`
    let address: number | undefined
    if (what.table === 'ste') address = smmu.shadow.steAddress(sid, memory)
    else if (what.table === 'l1') address = smmu.shadow.l1Address(sid)
    else {
      const { from } = rangeOf(what.address ?? 0)
      const tables = context.policy.inspect?.faults.stage2() ?? []
      const [place] = tables.flatMap(table => [...stage2Descriptors(memory, table, from, from + 1)])
      address = place?.address
    }
    const bytes = new Uint8Array(8)
    const at = (address ?? 0) + 8 * (what.table === 'ste' ? (what.word ?? 0) : 0)
    if (address === undefined || !memory.read(at, bytes, 0, 8)) return `no ${what.table} there`
    const text = changeBytes(bytes, { ...what, do: 'change', word: 0 })
    memory.write(at, bytes, 0, 8)
    context.invalidate(smmu.index)
    return `${what.table} at ${hex(at)}: ${text}`
  }

  #givePages(smmu: SmmuFaults, what: WhatOf['donate'] | WhatOf['reclaim']): string {
    const { context } = this.#machine
    let base = what.address === undefined ? undefined : rangeOf(what.address).from
    if (what.do === 'donate' && base === undefined && what.sid !== undefined) {
      const sid = sidNow(what.sid, context.devices)
      if (sid === NO_STREAM) return `${what.sid} is not there`
      base = devicePage(smmu.hardware, context.memory, sid, halvesOf(what.iova ?? 0))
    }
    if (base === undefined) return 'nothing is mapped there'
    const size = Number(big(what.size ?? 4096))
    this.#moving = true
    try {
      const result = context[what.do](base, size, what.vm ?? 1)
      return `${what.do} ${size} bytes at ${hex(base)}: ${resultName(result)}`
    } finally {
      this.#moving = false
    }
  }
}

const IRQ_ENABLE: Readonly<Record<WhatOf['lose-irq']['lines'][number], number>> = {
  evtq: r.IRQ_CTRL_EVTQ_IRQEN,
  priq: r.IRQ_CTRL_PRIQ_IRQEN,
  gerror: r.IRQ_CTRL_GERROR_IRQEN,
}

const GERROR: Readonly<Record<WhatOf['gerror']['bits'][number], number>> = {
  CMDQ_ERR: r.GERROR_CMDQ_ERR,
  EVTQ_ABT_ERR: r.GERROR_EVTQ_ABT_ERR,
  PRIQ_ABT_ERR: r.GERROR_PRIQ_ABT_ERR,
  MSI_CMDQ_ABT_ERR: r.GERROR_MSI_CMDQ_ABT_ERR,
  MSI_EVTQ_ABT_ERR: r.GERROR_MSI_EVTQ_ABT_ERR,
  MSI_PRIQ_ABT_ERR: r.GERROR_MSI_PRIQ_ABT_ERR,
  MSI_GERROR_ABT_ERR: r.GERROR_MSI_GERROR_ABT_ERR,
  SFM_ERR: r.GERROR_SFM_ERR,
}

const clock = new Int32Array(new SharedArrayBuffer(4))
/** The trap thread stands still. */
function sleep(ms: number): void {
  Atomics.wait(clock, 0, 0, ms)
}
