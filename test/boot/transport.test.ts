// SPDX-License-Identifier: Apache-2.0
/** What traps travel through, and whether QEMU may answer some by itself, must not show in what comes of them. */
import { expect, test } from 'vitest'
import { cosim } from './cli.ts'

test.each([
  { args: ['--transport', 'ring'], frames: 'ring', ram: 'mapped' },
  { args: ['--transport', 'socket'], frames: 'socket', ram: 'file' },
  { args: ['--faithful', '--transport', 'ring'], frames: 'ring', ram: 'mapped' },
  { args: ['--faithful', '--transport', 'socket'], frames: 'socket', ram: 'file' },
])('$args: the workload passes, and its recording replays without a difference', async ({ args, frames, ram }) => {
  const { code, report, said } = await cosim(['boot', ...args])
  expect(code, said).toBe(0)
  expect(report).toMatchObject({ outcome: 'ok', transport: { frames, ram }, isolated: true, refusals: [] })
  expect(report?.workload.map(({ ok }) => ok)).toEqual([true, true, true, true, true])
  expect(report?.traps?.predicted === 0).toBe(args.includes('--faithful'))
  const replayed = await cosim(['replay', report?.recording?.path ?? ''])
  expect([replayed.code, replayed.stdout], replayed.stderr).toEqual([0, expect.stringContaining('no difference')])
})
