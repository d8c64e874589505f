// SPDX-License-Identifier: Apache-2.0
/**
 * Value change dump (IEEE 1364-2005, 18): registers as the host and as the hardware have them, and which vCPU is in a
 * trap, for waveform viewers. A read that QEMU answered has a value, but its vCPU was in no trap.
 */
import { registerAt, registerName } from '../../smmu/registers.ts'
import type { TraceHeader } from '../format.ts'
import { groups, isGroup } from '../groups.ts'
import type { TraceRecord } from '../records.ts'

interface Signal {
  readonly scope: string
  readonly name: string
  readonly bits: number
  readonly id: string
}

/** A value that a signal takes at a time. */
interface Change {
  readonly time: number
  readonly scope: string
  readonly name: string
  readonly bits: number
  readonly value: bigint
}

/** @param read gives the records from the start; called twice. @yields the file's text in pieces */
export function* vcd(header: TraceHeader, read: () => Iterable<TraceRecord>): Generator<string> {
  const signals = new Map<string, Signal>()
  for (const { scope, name, bits } of changes(read())) {
    const key = `${scope} ${name}`
    if (!signals.has(key)) signals.set(key, { scope, name, bits, id: identifier(signals.size) })
  }
  yield `$date ${header.created} $end\n$version smmu-cosim, policy ${header.policy.replaceAll('$', '')} $end\n`
  yield '$timescale 1 ns $end\n'
  yield* declarations([...signals.values()])
  yield '$enddefinitions $end\n$dumpvars\n'
  for (const { bits, id } of signals.values()) yield bits === 1 ? `0${id}\n` : `bx ${id}\n`
  yield '$end\n'
  let now = -1
  for (const { time, scope, name, value } of changes(read())) {
    const signal = signals.get(`${scope} ${name}`)
    if (signal === undefined) continue
    // Times may only grow; a record that came late counts from when it was known.
    if (time > now) {
      now = time
      yield `#${now}\n`
    }
    yield signal.bits === 1 ? `${value}${signal.id}\n` : `b${value.toString(2)} ${signal.id}\n`
  }
}

function* declarations(signals: readonly Signal[]): Generator<string> {
  for (const scope of new Set(signals.map(({ scope }) => scope))) {
    const path = scope.split('.')
    for (const part of path) yield `$scope module ${part} $end\n`
    for (const { name, bits, id } of signals.filter(signal => signal.scope === scope)) {
      yield `$var wire ${bits} ${id} ${name}${bits > 1 ? ` [${bits - 1}:0]` : ''} $end\n`
    }
    for (const _ of path) yield '$upscope $end\n'
  }
}

function* changes(records: Iterable<TraceRecord>): Generator<Change> {
  const counts = new Map<string, bigint>()
  const registers = new Registers()
  // Of the trap thread: what the control thread records, such as console lines, may stand before decisions that came earlier.
  let now = 0
  const counted = (name: string): Change => {
    const value = (counts.get(name) ?? 0n) + 1n
    counts.set(name, value)
    return { time: now, scope: 'server', name, bits: 32, value }
  }
  for (const item of groups(records)) {
    if (!isGroup(item)) {
      if (item.kind === 'event' || item.kind === 'gerror') yield counted(`${item.kind}s`)
      continue
    }
    const { root, children } = item
    now = Math.max(now, root.start)
    const trapped = root.kind === 'trap' && root.duration > 0
    if (trapped) yield inTrap(root.cpu, now, 1n)
    if (root.kind === 'trap' && root.write) yield registers.change(`smmu${root.smmu}.host`, now, root)
    for (const child of children) {
      if (child.kind === 'hardware' && child.ok) {
        now = Math.max(now, child.start + child.duration)
        yield registers.change(`smmu${child.smmu}.hardware`, now, child)
      } else if (child.kind === 'warning' || child.kind === 'event' || child.kind === 'gerror') {
        yield counted(`${child.kind}s`)
      }
    }
    now = Math.max(now, root.start + root.duration)
    if (root.kind === 'trap' && !root.write && !root.aborted) yield registers.change(`smmu${root.smmu}.host`, now, root)
    if (trapped) yield inTrap(root.cpu, now, 0n)
  }
}

function inTrap(cpu: number, time: number, value: bigint): Change {
  return { time, scope: 'guest', name: `vcpu${cpu}_in_trap`, bits: 1, value }
}

/** Values of registers, which are also accessed by halves. */
class Registers {
  readonly #values = new Map<string, bigint>()

  /** What an access read or wrote, as a value of the whole register. One of 4 or 8 bytes: a file may say anything else. */
  change(scope: string, time: number, { offset, size: said, lo, hi }: Access): Change {
    const size = said === 8 ? 8 : 4
    const known = registerAt(offset) ?? registerAt(offset - 4)
    const whole = known !== undefined && offset - known.offset < known.bits / 8 ? known : { offset, bits: size * 8 }
    const name = registerName(whole.offset).replace(/[^A-Za-z0-9_]/g, '_')
    const key = `${scope} ${name}`
    const shift = BigInt(offset - whole.offset) * 8n
    const accessed = BigInt.asUintN(size * 8, (BigInt(hi) << 32n) | BigInt(lo))
    const others = (this.#values.get(key) ?? 0n) & ~(((1n << BigInt(size * 8)) - 1n) << shift)
    const value = BigInt.asUintN(whole.bits, others | (accessed << shift))
    this.#values.set(key, value)
    return { time, scope, name, bits: whole.bits, value }
  }
}

interface Access {
  readonly offset: number
  readonly size: number
  readonly lo: number
  readonly hi: number
}

/** Short names of printable characters, as the format wants them. */
function identifier(index: number): string {
  let id = ''
  for (let rest = index; ; rest = Math.floor(rest / 94) - 1) {
    id += String.fromCharCode(33 + (rest % 94))
    if (rest < 94) return id
  }
}
