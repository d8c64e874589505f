// SPDX-License-Identifier: Apache-2.0
/** Commands through filter and shadow queue. The host's queue is in this process's memory and filled beforehand. */
import type { FaultRule } from '../../server/faults/rule.ts'
import { CMDQ_OP_TLBI_NH_VA, cmdSync } from '../../server/smmu/commands.ts'
import * as r from '../../server/smmu/registers.ts'
import type { Context, Figure, Part } from './figure.ts'
import { BenchMachine, BufferMemory, MiB, RAM_BASE } from './machine.ts'

const RAM_BYTES = 64 * MiB
const CARVEOUT_BYTES = 16 * MiB
const QUEUE = RAM_BASE + 8 * MiB
const LOG2SIZE = 16
const ENTRIES = 2 ** LOG2SIZE
const CS_SEV = 2
/** Words of the trace that may wait: a fraction of the ring. */
const COMMANDS_BETWEEN_DRAINS = 65_536

const BATCHES = [
  { what: 'commands, 2 at a time: an unmap and its CMD_SYNC', size: 2, target: '≥ 3 M/s' },
  { what: 'commands, 64 at a time: a full batch of Linux', size: 64, target: '≥ 10 M/s' },
  { what: 'commands, 65,536 at a time: a whole queue', size: 65_536, target: '≥ 10 M/s' },
] as const

/** Fills the whole queue: invalidations, and at the end of each batch CMD_SYNC. */
function fill(memory: BufferMemory, batch: number): void {
  const words = new Uint32Array(memory.bytes.buffer, QUEUE - RAM_BASE, 4 * ENTRIES)
  for (let i = 0; i < ENTRIES; i++) {
    const at = 4 * i
    if (i % batch === batch - 1) {
      cmdSync(words, CS_SEV, at)
      continue
    }
    words[at] = CMDQ_OP_TLBI_NH_VA
    words[at + 1] = 1 << 16 // ASID 1, VMID 0
    words[at + 2] = ((i << 12) | 1) >>> 0
    words[at + 3] = 0xffff
  }
}

/** @returns the time of one run, commands a second. */
function run(machine: BenchMachine, batch: number, count: number, at: { prod: number }): number {
  let elapsed = 0
  const before = machine.hardware.taken
  const total = Math.ceil(count / batch) * batch
  for (let done = 0; done < total; ) {
    const part = Math.min(total - done, Math.max(batch, COMMANDS_BETWEEN_DRAINS))
    const start = performance.now()
    for (let i = 0; i < part; i += batch) {
      at.prod = (at.prod + batch) & (2 * ENTRIES - 1)
      machine.write(r.ARM_SMMU_CMDQ_PROD, at.prod)
    }
    elapsed += performance.now() - start
    done += part
    machine.drain()
  }
  machine.check()
  const taken = machine.hardware.taken - before
  if (taken !== total) throw new Error(`the hardware got ${taken} of ${total} commands`)
  return (total / elapsed) * 1000
}

/** A machine whose guest has filled its queue. */
function prepare(size: number) {
  const memory = new BufferMemory(RAM_BASE, RAM_BYTES)
  fill(memory, size)
  const machine = new BenchMachine(memory, CARVEOUT_BYTES)
  machine.write(r.ARM_SMMU_CMDQ_BASE, QUEUE + LOG2SIZE, 8)
  machine.write(r.ARM_SMMU_CMDQ_PROD, 0)
  machine.write(r.ARM_SMMU_CMDQ_CONS, 0)
  machine.write(r.ARM_SMMU_CR0, r.CR0_CMDQEN)
  return { machine, size, at: { prod: 0 }, values: [] as number[] }
}

/** At every point that commands pass, and never true. */
const RULES: readonly FaultRule[] = [
  { name: 'register', where: { at: 'register', register: 'ARM_SMMU_CMDQ_PROD', access: 'write' } },
  { name: 'hardware', where: { at: 'hardware', register: 'ARM_SMMU_CMDQ_PROD', access: 'write' } },
  { name: 'command', where: { at: 'command', command: 'CMDQ_OP_TLBI_NH_VA' } },
  { name: 'pages', where: { at: 'pages', operation: 'share' } },
].map(rule => ({ ...rule, when: { nth: 2 ** 31 }, what: { do: 'delay', ms: 1 } })) as readonly FaultRule[]

export async function benchCommands({ scale, signal, say }: Context): Promise<Part> {
  const machines = BATCHES.map(({ size }) => prepare(size))
  const disarmed = prepare(BATCHES[0].size)
  disarmed.machine.armAndDisarm(RULES, () => run(disarmed.machine, disarmed.size, scale.commands / 10, disarmed.at))
  const all = [...machines, disarmed]
  // The compiler's time is not the filter's.
  for (const { machine, size, at } of all) run(machine, size, scale.commands / 4, at)
  for (let round = 0; round < scale.pairs; round++) {
    say(`commands: round ${round + 1} of ${scale.pairs}`)
    for (const { machine, size, at, values } of all) {
      values.push(run(machine, size, scale.commands, at) / 1e6)
      await new Promise(resolve => setImmediate(resolve))
      signal.throwIfAborted()
    }
  }
  const base = { bench: 'commands', unit: 'M/s' } as const
  const figures = machines.map(
    ({ values }, i): Figure => ({
      ...base,
      what: BATCHES[i].what,
      a: { label: 'filter and shadow queue', values },
      target: BATCHES[i].target,
    }),
  )
  figures.push({
    ...base,
    what: 'commands, 2 at a time',
    a: { label: 'after fault rules were armed and disarmed', values: disarmed.values },
    b: { label: 'there never were any', values: machines[0].values },
  })
  return { figures }
}
