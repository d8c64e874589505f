// SPDX-License-Identifier: Apache-2.0
/** Two runs of the same guest: what differs by run alone is no difference; and what a terminal is shown. */
import { spawnSync } from 'node:child_process'
import { chmodSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, expect, test } from 'vitest'
import { addressOf } from '../../../server/smmu/bits.ts'
import { registerAt } from '../../../server/smmu/registers.ts'
import { SamePages } from '../../../server/trace/addresses.ts'
import { type DiffOptions, diff } from '../../../server/trace/diff.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import type { TraceRecord } from '../../../server/trace/records.ts'
import { warningsOf } from '../../../server/trace/warnings.ts'
import { bootRecording, folder, scriptedBoot, trap } from './synthetic.ts'

const reader = TraceReader.open(fileURLToPath(new URL('recordings/6.12-nested.gz', import.meta.url)))
const records = [...reader.records()]
const { machine } = reader.header

const inRam = (address: number) =>
  machine.ram.some(({ base, size }) => address >= base && address < base + size) &&
  !(address >= machine.carveout.base && address < machine.carveout.base + machine.carveout.size)

/** Another page of RAM for each, 256 at a time: what a page table or a queue has together stays together. */
const moved = (address: number) => (inRam(address) && inRam(address ^ 0x0210_0000) ? address ^ 0x0210_0000 : address)

/** The same run, had the guest's kernel taken other pages. */
function elsewhere(record: TraceRecord): TraceRecord {
  if (record.kind === 'memory') {
    const bytes = Buffer.from(record.bytes)
    for (let at = 0; at + 8 <= bytes.length; at += 8) {
      const word = bytes.readBigUInt64LE(at)
      const address = Number(word & 0x000f_ffff_ffff_ffffn)
      if (inRam(address)) bytes.writeBigUInt64LE((word & 0xfff0_0000_0000_0000n) | BigInt(moved(address)), at)
    }
    return { ...record, address: moved(record.address), bytes }
  }
  if (record.kind !== 'trap' && record.kind !== 'hardware') return record
  const address = addressOf(record.lo, record.hi % 2 ** 20)
  return registerAt(record.offset)?.address && inRam(address) ? { ...record, lo: moved(address) % 2 ** 32 } : record
}

const normal: DiffOptions = {
  values: true,
  nested: true,
  warnings: [warningsOf(reader.header), warningsOf(reader.header)],
  machines: [machine, machine],
}
const { machines: _, ...exact } = normal

test('a guest that took other pages did the same', () => {
  const other = records.map(elsewhere)
  const different = records.filter((record, i) => JSON.stringify(record) !== JSON.stringify(other[i]))
  expect(new Set(different.map(({ kind }) => kind))).toEqual(new Set(['trap', 'hardware', 'memory']))
  expect([...diff(records, other, normal)]).toEqual([])
  expect([...diff(records, other, exact)].flatMap(({ a }) => a).length).toBeGreaterThan(100)
})

test('one that went to another page than before did not, and only there', () => {
  const other = records.map(elsewhere)
  const reads = other.flatMap((record, i) => (record.kind === 'memory' && inRam(record.address) ? [i] : []))
  const at = reads.at(-20) ?? -1
  const record = other[at]
  if (record?.kind !== 'memory') throw new Error('no read')
  other[at] = { ...record, address: record.address + 0x1000 }
  const places = [...diff(records, other, normal)]
  // There, and where it goes back to the page that it had.
  expect(places.length).toBeGreaterThanOrEqual(1)
  expect(places.length).toBeLessThanOrEqual(2)
  other[at] = { ...record, address: record.address + 4 }
  expect([...diff(records, other, normal)].length).toBe(1)
})

test('flags beside an address count', () => {
  const at = records.findIndex(record => record.kind === 'trap' && record.offset === 0x90 && record.write === 1)
  const record = records[at]
  if (record?.kind !== 'trap') throw new Error('no write of CMDQ_BASE')
  const other = records.with(at, { ...record, lo: record.lo ^ 1 })
  expect([...diff(records, other, normal)].length).toBe(1)
})

test('pages stand for each other one by one, until a reset', () => {
  const pages = new SamePages()
  expect(pages.match([1, 2, 1], [11, 12, 11])).toBe(true)
  expect(pages.match([1], [12])).toBe(false)
  // That is how it is from here on.
  expect(pages.match([1], [12])).toBe(true)
  expect(pages.match([3], [12])).toBe(false)
  expect(pages.match([4], [])).toBe(false)
  pages.forget()
  expect(pages.match([1, 3], [13, 11])).toBe(true)
})

describe('on a terminal', () => {
  const main = fileURLToPath(new URL('./main.ts', import.meta.url))

  /** What a pseudo terminal gets. */
  async function shown(env: Record<string, string>, ...options: string[]): Promise<string> {
    const where = folder()
    const [a, b] = [join(where, 'a'), join(where, 'b')]
    await bootRecording(a)
    await bootRecording(b, {}, bench => {
      scriptedBoot(bench, 21)
    })
    const command = [process.execPath, main, 'trace', 'diff', a, b, ...options].map(part => `'${part}'`).join(' ')
    const { PATH = '' } = process.env
    const { stdout } = spawnSync('script', ['-qec', command, '/dev/null'], {
      encoding: 'utf8',
      env: { PATH, TERM: 'xterm-256color', ...env },
      input: '',
    })
    return stdout.replaceAll('\r', '')
  }

  /** A pager that says that it was there. */
  function pager(): { readonly PAGER: string; read(): string } {
    const where = folder()
    const file = join(where, 'paged')
    const path = join(where, 'pager')
    writeFileSync(path, `#!/bin/sh\necho "LESS=$LESS" > '${file}'\ncat >> '${file}'\necho paged\n`)
    chmodSync(path, 0o755)
    return { PAGER: path, read: () => readFileSync(file, 'utf8') }
  }

  const GREEN = '\x1b[32m+ '

  test('in colours, through PAGER', async () => {
    const { PAGER, read } = pager()
    expect((await shown({ PAGER })).trim()).toBe('paged')
    expect(read()).toMatch(/^LESS=FRX\n/)
    expect(read()).toContain(GREEN)
    expect(read()).toMatch(/1 place; 0 decisions only in the first, 3 only in the second\n$/)
  })

  test.each([
    ['--no-pager', {}, ['--no-pager']],
    ['an empty PAGER', { PAGER: '' }, []],
    ['PAGER=cat', { PAGER: 'cat' }, []],
  ])('in colours without a pager: %s', async (_what, env, options) => {
    const { PAGER } = pager()
    const text = await shown({ PAGER, ...env }, ...options)
    expect(text).toContain(GREEN)
    expect(text).not.toContain('paged')
  })

  test('without colours where NO_COLOR is set', async () => {
    const text = await shown({ NO_COLOR: '1', PAGER: '' })
    expect(text).toMatch(/^\+ +#[0-9]+ cpu0 W CMDQ_PROD/m)
    expect(text).not.toContain('\x1b')
  })

  test('a pager that is not there ends it without hanging', async () => {
    expect(await shown({ PAGER: '/none/such' })).toMatch(/not found/)
  })
})

test('no colours and no pager where nobody looks; functions of each run with --symbols', async () => {
  const where = folder()
  const [a, b, map] = [join(where, 'a'), join(where, 'b'), join(where, 'System.map')]
  await bootRecording(a)
  await bootRecording(b, {}, bench => {
    scriptedBoot(bench, 21)
  })
  const pc = (BigInt(trap.pcHi) << 32n) | BigInt(trap.pcLo)
  writeFileSync(map, `${(pc - 4n).toString(16)} t arm_smmu_issue\n${(pc + 64n).toString(16)} t next\n`)
  const main = fileURLToPath(new URL('./main.ts', import.meta.url))
  const { stdout, stderr } = spawnSync(
    process.execPath,
    [main, 'trace', 'diff', a, b, '--symbols', map, '--kaslr', '0'],
    { encoding: 'utf8', env: { PATH: process.env.PATH, PAGER: 'false' } },
  )
  expect(stderr).toBe('')
  expect(stdout).not.toContain('\x1b')
  expect(stdout).toMatch(/^\+ +#[0-9]+ cpu0 W CMDQ_PROD .* arm_smmu_issue\+0x4$/m)
})
