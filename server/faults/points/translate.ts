// SPDX-License-Identifier: Apache-2.0
import type { Translate } from '../../../protocol/generated/messages.ts'
import { enums } from '../../../protocol/messages.ts'
import { addressOf, hex, hex64 } from '../../smmu/bits.ts'
import { EVT_ID_PERMISSION_FAULT, EVTQ_1_CLASS_IN, emptyEvent, encodeEvent } from '../../smmu/events.ts'
import { eventNumber } from '../../smmu/names.ts'
import type { Answer } from '../../translate/answer.ts'
import type { ArmedRule } from '../armed.ts'
import type { ArmedMachine } from '../armedMachine.ts'
import type { FreeActions } from '../freeActions.ts'
import { big, rangeOf } from '../names.ts'
import type { Action } from '../rule.ts'

const { mapped: MAPPED, fault: FAULT, silent: SILENT } = enums.translation

/** A transaction that faults anyway has nothing that these could alter: they wait for another. */
const NEEDS_ADDRESS: ReadonlySet<Action> = new Set<Action>(['redirect', 'restrict'])

/** Translations that this server answers. */
export class TranslatePoint {
  readonly #machine: ArmedMachine
  readonly #actions: FreeActions
  readonly #rules: readonly ArmedRule<'translate'>[]

  constructor(machine: ArmedMachine, actions: FreeActions, rules: readonly ArmedRule<'translate'>[]) {
    this.#machine = machine
    this.#actions = actions
    this.#rules = rules
  }

  /** Alters an answer before it is sent. */
  alter(request: Translate, answer: Answer): void {
    const write = (request.access & enums.access.write[0]) !== 0
    const iova = addressOf(request.iovaLo, request.iovaHi)
    for (const armed of this.#rules) {
      const { access } = armed.rule.where
      if (!armed.concerns(request.smmu) || !armed.touches(iova)) continue
      if (armed.sid !== undefined && armed.sid !== request.sid) continue
      if (access !== undefined && (access === 'write') !== write) continue
      if (NEEDS_ADDRESS.has(armed.rule.what.do) && answer.status !== MAPPED[0]) continue
      if (armed.trigger.match(this.#machine.time)) this.#apply(armed, request, answer, write)
    }
  }

  #apply(armed: ArmedRule, request: Translate, answer: Answer, write: boolean): void {
    const { what } = armed.rule
    switch (what.do) {
      case 'fault':
        setFault(answer, request, eventNumber(what.event) ?? 0, write, what.stage === 2)
        break
      case 'abort':
        answer.status = SILENT[0]
        break
      case 'redirect': {
        const within = answer.pa % 4096
        const page = what.address === undefined ? answer.pa - within : rangeOf(what.address).from
        answer.pa = Number(BigInt(page + within) ^ big(what.xor ?? 0))
        answer.addressMask = 0xfff
        break
      }
      case 'restrict': {
        answer.permissions &= what.permissions === 'none' ? 0 : enums.permission[what.permissions][0]
        const wanted = enums.permission[write ? 'write' : 'read'][0]
        if ((answer.permissions & wanted) === 0) setFault(answer, request, EVT_ID_PERMISSION_FAULT, write, false)
        break
      }
      default:
        return this.#actions.act(armed, request.smmu)
    }
    const from = `sid ${hex(request.sid)} iova ${hex64(request.iovaLo, request.iovaHi)}`
    const text = `${from}: ${what.do}, status ${answer.status}, address ${hex(answer.pa)}`
    this.#machine.fired(armed, text, request.sid, answer.pa)
  }
}

/** The transaction faults instead, with the record that the hardware would write. */
function setFault(answer: Answer, request: Translate, id: number, write: boolean, stage2: boolean): void {
  const record = emptyEvent(id, request.sid)
  record.rnw = !write
  record.s2 = stage2
  record.class = EVTQ_1_CLASS_IN
  record.inputLo = request.iovaLo
  record.inputHi = request.iovaHi
  record.ipa = stage2 ? answer.pa - (answer.pa % 4096) : 0
  answer.status = FAULT[0]
  encodeEvent(record, answer.words)
}
