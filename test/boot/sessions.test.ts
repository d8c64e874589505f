// SPDX-License-Identifier: Apache-2.0
/** Sessions on a real, restored guest: verdicts from evidence, a campaign that is killed and resumed. */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { Database } from '../../server/sessions/database.ts'
import { cosim, leftovers } from './cli.ts'

const folder = mkdtempSync(join(tmpdir(), `smmu-cosim-${process.pid}-sessions-`))
const database = join(folder, 'campaigns.db')
afterAll(() => rmSync(folder, { recursive: true, force: true }))

test('a campaign that is killed goes on, and no session is lost or done twice; verdicts are as expected', async () => {
  const names = ['donate-unmap-lost', 'warning-forced', 'donate-fails']
  const args = ['faults', 'run', ...names, '--jobs', '1', '--database', database]
  const killed = await cosim(args, {
    onErrors: (text, child) => {
      if (text.includes('1/3')) child.kill('SIGKILL')
    },
  })
  expect(killed.code).toBe(null)
  const before = new Database(database)
  const campaign = before.campaign(before.unfinished() ?? 0)
  const first = before.rows(campaign)
  expect(first.length).toBeGreaterThanOrEqual(1)
  expect(first.length).toBeLessThan(3)
  before.close()
  const resumed = await cosim(['faults', 'campaign', '--resume', '--jobs', '2', '--database', database])
  expect(resumed.code, resumed.stderr).toBe(0)
  const after = new Database(database)
  const rows = after.rows(campaign)
  expect(rows.map(({ job, result }) => [job.entry.name, result.verdict])).toEqual([
    ['donate-unmap-lost', 'isolation-violation'],
    ['warning-forced', 'hyp-warning'],
    ['donate-fails', 'unaffected'],
  ])
  expect(rows[0].result).toEqual(first[0].result)
  for (const { result } of rows) expect(result.evidence.checks.every(({ ok }) => ok)).toBe(true)
  after.close()
  expect(leftovers(resumed.pid)).toEqual([])
})

test('a prefix that has no second stage is not judged by its isolation', async () => {
  const args = ['faults', 'campaign', 'event-lost', '--until', 'cmdq', '--jobs', '1', '--json', '--database', database]
  const { code, stdout, stderr } = await cosim(args)
  expect(code, stderr).toBe(0)
  expect(stdout).toContain('"unaffected"')
})

test('a session on a machine with another device, other words for the kernel and for QEMU', async () => {
  const machine = ['--device', 'ahci', '--append', 'cosim.words=1', '--qemu-arg=-name', '--qemu-arg=another']
  const { code, stderr } = await cosim(['faults', 'run', 'warning-forced', ...machine, '--database', database])
  expect(code, stderr).toBe(0)
  const db = new Database(database)
  const [row] = db.rows(db.campaign(db.list().at(-1)?.id ?? 0))
  db.close()
  expect(row?.job.machine).toEqual({ devices: ['ahci'], append: 'cosim.words=1', qemuArgs: ['-name', 'another'] })
  expect(row?.result.verdict).toBe('hyp-warning')
  expect(row?.result.evidence.checks).toContainEqual(
    expect.objectContaining({ device: 'ahci', operation: 'write', ok: true }),
  )
})

test('a policy that could not isolate is found, although the guest notices nothing', async () => {
  const args = ['faults', 'run', 'gbpa-update-stuck', '--jobs', '1', '--json', '--database', database]
  const { code, stdout, stderr } = await cosim(args)
  expect(code, stderr).toBe(0)
  expect(stdout).toContain('the policy says that it does not isolate')
})

test('what goes wrong between EL2 and the server is seen by the attacker, or not at all', async () => {
  const names = ['el2-change-lost', 'el2-server-killed-between']
  const { code, stdout, stderr } = await cosim([
    ...['faults', 'run', ...names, '--jobs', '1', '--json'],
    ...['--database', database],
  ])
  expect(code, stderr).toBe(0)
  // Whoever sees it first: what follows is not run any more.
  expect(stdout).toMatch(/dma read of secret|EL2 and the SMMU do not agree/)
  expect(stdout).toMatch(/"isolation-violation"[\s\S]*"recovered"/)
})

test('a guest that hangs is told with the kernel functions that it waits in', async () => {
  const args = ['faults', 'run', 'service-failure-mode', '--jobs', '1', '--json', '--database', database]
  const { code, stdout, stderr } = await cosim(args)
  expect(code, stderr).toBe(0)
  // A read of the first disk, which never comes back.
  expect(stdout).toMatch(/the workload was not done at the deadline; before that [^"]* in submit_bio_wait < /)
})
