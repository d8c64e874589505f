// SPDX-License-Identifier: Apache-2.0
/** `boot --oracle` with a real Linux: nothing of its own work is a violation, and what is one stops it. */
import { rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { privateFolder } from '../../server/machine/scratch.ts'
import { cosim } from './cli.ts'

const PAGE = 0x5800_0000
/** What a page takes that is donated while Linux works; nobody has it. */
const DONATE = `{ name: donate, where: { at: command, command: CMDQ_OP_TLBI_NH_VA }, when: { nth: 30 }, what: { do: donate, address: ${PAGE} } }`
const TAKE_BACK = `{ name: take-back, where: { at: command, command: CMDQ_OP_TLBI_NH_VA }, when: { nth: 300 }, what: { do: reclaim, address: ${PAGE} } }`

let folder: string
beforeAll(() => {
  folder = privateFolder(tmpdir(), 'oracle-')
})
afterAll(() => rmSync(folder, { recursive: true }))

function rules(...list: readonly string[]): string {
  const file = join(folder, `${list.length}.yaml`)
  writeFileSync(file, `rules:\n${list.map(rule => `  - ${rule}\n`).join('')}`)
  return file
}

test('the workload, with a page that is donated and taken back: nothing is found', async () => {
  const { code, report, said } = await cosim(['boot', '--oracle', '--quiet', '--faults', rules(DONATE, TAKE_BACK)])
  expect([code, report?.message], said).toEqual([0, undefined])
  const { oracle } = report ?? {}
  expect(oracle).toMatchObject({ violations: [], more: 0, vmPages: 0 })
  expect(oracle?.unjudged).toBeUndefined()
  expect(oracle?.samples).toBeGreaterThan(5)
  // When the guest is done; at its end as well, if the registers were read after the last write of the shutdown.
  expect(oracle?.wholes).toBeOneOf([1, 2])
  expect(report?.isolated).toBe(true)
})

test('RAM in blocks: a block is split and merged ten times while Linux works', async () => {
  const at = (what: string, nth: number) =>
    `{ name: ${what}-${nth}, where: { at: command, command: CMDQ_OP_TLBI_NH_VA }, when: { nth: ${nth} }, what: { do: ${what}, address: ${PAGE} } }`
  const turns = Array.from({ length: 10 }, (_, i) => [at('donate', 30 + 40 * i), at('reclaim', 50 + 40 * i)]).flat()
  const { code, report, said } = await cosim(['boot', '--oracle', '--quiet', '--blocks', '--faults', rules(...turns)])
  expect([code, report?.message], said).toEqual([0, undefined])
  expect(report).toMatchObject({ blocks: true, isolated: true, oracle: { violations: [], more: 0, vmPages: 0 } })
  const { commands = [], idmap } = report as unknown as {
    commands?: readonly { command: string; own: number }[]
    idmap: { tables: number; unmapped: number }
  }
  const own = (name: string) => commands.find(({ command }) => command === name)?.own
  // One for each split, one for each merge.
  expect([own('TLBI_S2_IPA'), own('TLBI_S12_VMALL')]).toEqual([10, 10])
  expect(idmap).toMatchObject({ unmapped: 0 })
  expect(idmap.tables).toBeLessThan(50)
})

test('a known defect: a donated page stays reachable', async () => {
  const args = ['boot', '--oracle', '--quiet', '--quirk', 'idmap-never-initialised', '--faults', rules(DONATE)]
  const { code, report, stderr } = await cosim(args)
  expect([code, report?.outcome, report?.isolated], stderr).toEqual([1, 'isolation-violation', false])
  expect(report?.message).toMatch(/: the second stage maps 0x58000000.*: page 0x58000000 belongs to VM 1$/)
  const [{ page, stream, walk } = {}] = report?.oracle?.violations ?? []
  expect(page).toBe('0x58000000')
  expect(stream?.device).toMatch(/virtio|nvme|e1000e/)
  expect(walk?.at(0)).toMatch(/^STRTAB_BASE 0x/)
  expect(walk?.some(line => /^STE 0x.* nested/.test(line))).toBe(true)
  expect(walk?.at(-1)).toMatch(/^S2 level \d for IN .*: (page|block) /)
  for (const text of ['---[ isolation violation ]---', 'page 0x58000000', ...(walk ?? [])])
    expect(stderr).toContain(text)
})

describe('refused before anything is started', () => {
  test.each([
    [['--policy', 'passthrough'], '--oracle: with --policy passthrough there is no second stage'],
    [['--until', 'queues'], '--oracle: with --until queues there is no second stage'],
    [['--baseline'], "'--baseline' cannot be used with option '--oracle'"],
  ])('%j', async (args, reason) => {
    const { code, stderr } = await cosim(['boot', '--oracle', ...args])
    expect(code).toBe(2)
    expect(stderr).toContain(reason)
  })
})
