// SPDX-License-Identifier: Apache-2.0
/** The waveform export, by its own rules and through the converters of GTKWave, where they are installed. */
import { execFileSync, spawnSync } from 'node:child_process'
import { readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { vcd } from '../../../server/trace/export/vcd.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import { bootRecording, folder, recording, trap } from './synthetic.ts'

type Changes = Map<string, (readonly [time: number, value: bigint | undefined])[]>

/** Values of each signal by its full name, from the first one that was dumped; undefined: unknown. */
function parse(text: string): Changes {
  const [head = '', body = ''] = text.split(/\$enddefinitions\s+\$end\n/)
  const signals = new Map<string, { name: string; bits: number }>()
  const scopes: string[] = []
  for (const [, keyword, rest = ''] of head.matchAll(/^\$(scope|upscope|var)\s+(.*?)\s*\$end$/gm)) {
    if (keyword === 'upscope') expect(scopes.pop()).toBeDefined()
    const [type = '', ...more] = rest.trim().split(/\s+/)
    if (keyword === 'scope') scopes.push(more[0] ?? '')
    if (keyword !== 'var') continue
    const [bits = '', id = '', name = ''] = more
    expect([type, signals.has(id)]).toEqual(['wire', false])
    signals.set(id, { name: [...scopes, name].join('.'), bits: Number(bits) })
  }
  expect(scopes).toEqual([])
  const changes: Changes = new Map([...signals.values()].map(({ name }) => [name, []]))
  expect(changes.size).toBe(signals.size)
  let now = -1
  for (const line of body.trimEnd().split('\n')) {
    if (/^\$(dumpvars|end)$/.test(line)) continue
    const [, time] = /^#([0-9]+)$/.exec(line) ?? []
    if (time !== undefined) {
      expect(Number(time)).toBeGreaterThan(now)
      now = Number(time)
      continue
    }
    const [, vector, of, bit, one] = /^(?:b([01x]+) (\S+)|([01x])(\S+))$/.exec(line) ?? []
    const signal = signals.get(of ?? one ?? '')
    const digits = vector ?? bit ?? ''
    expect(signal?.bits, line).toBeGreaterThanOrEqual(digits.length)
    const list = changes.get(signal?.name ?? '')
    const value = digits.includes('x') ? undefined : BigInt(`0b${digits}`)
    // A value that is written again is no change.
    if (list?.length === 0 || list?.at(-1)?.[1] !== value) list?.push([Math.max(now, 0), value])
  }
  return changes
}

const exported = (reader: TraceReader): string => [...vcd(reader.header, () => reader.records())].join('')

const recordings = fileURLToPath(new URL('recordings', import.meta.url))
const boots = readdirSync(recordings).filter(name => name.endsWith('.gz'))

test.each(boots)('%s: a vCPU is in a trap while the server has it, and never for a read that QEMU answered', name => {
  const reader = TraceReader.open(join(recordings, name))
  const changes = parse(exported(reader))
  const traps = [...reader.records()].flatMap(record => (record.kind === 'trap' ? [record] : []))
  const waited = traps.filter(({ duration }) => duration > 0)
  expect(changes.get('guest.vcpu0_in_trap')).toEqual([
    [0, 0n],
    ...waited.flatMap(({ start, duration }) => [
      [start, 1n],
      [start + duration, 0n],
    ]),
  ])
  // What the host last read or wrote, predicted or not.
  const last = traps.findLast(({ offset, aborted }) => offset === 0x9c && aborted === 0)
  expect(changes.get('smmu0.host.CMDQ_CONS')?.at(-1)?.[1]).toBe(BigInt(last?.lo ?? -1))
})

test('a register that is accessed by halves is one signal', async () => {
  const path = join(folder(), 'halves')
  await recording(path, writer => {
    const write = (seq: number, offset: number, size: number, lo: number, hi = 0) =>
      writer.trap({ ...trap, seq, offset, size, lo, hi }, seq * 100, 10, 0, 0)
    write(1, 0x90, 8, 0x11111111, 0x22222222)
    write(2, 0x94, 4, 0x33333333)
    write(3, 0x90, 4, 0x44444444)
    write(4, 0x20, 4, 5)
  })
  const changes = parse(exported(TraceReader.open(path)))
  expect([...changes.keys()].filter(name => name.startsWith('smmu0')).sort()).toEqual([
    'smmu0.host.CMDQ_BASE',
    'smmu0.host.CR0',
  ])
  expect(changes.get('smmu0.host.CMDQ_BASE')).toEqual([
    [0, undefined],
    [100, 0x2222222211111111n],
    [200, 0x3333333311111111n],
    [300, 0x3333333344444444n],
  ])
})

const converters = ['vcd2fst', 'fst2vcd'].every(tool => spawnSync(tool, ['-h']).error === undefined)

describe.skipIf(!converters)(
  `GTKWave reads it${converters ? '' : " (skipped: no vcd2fst, of Debian's gtkwave)"}`,
  () => {
    test.each([...boots.filter(name => name.startsWith('6.12')), 'scripted'])('%s', async name => {
      const where = folder()
      const path = name === 'scripted' ? join(where, 'boot') : join(recordings, name)
      if (name === 'scripted') await bootRecording(path)
      const text = exported(TraceReader.open(path))
      const [from, to] = [join(where, 'trace.vcd'), join(where, 'trace.fst')]
      writeFileSync(from, text)
      const { status, stdout, stderr } = spawnSync('vcd2fst', [from, to], { encoding: 'utf8' })
      expect({ status, stderr }).toEqual({ status: 0, stderr: '' })
      expect(stdout).not.toMatch(/warning|error/i)
      const back = execFileSync('fst2vcd', [to], { encoding: 'utf8', maxBuffer: 1 << 26 })
      expect(parse(back)).toEqual(parse(text))
    })
  },
)
