// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, test } from 'vitest'
import { checkMemory, limitMemory, memoryProblem } from '../../../server/sessions/memoryLimit.ts'

test('machines that do not fit are refused before they start', () => {
  expect(() => checkMemory(4, 3 * 2 ** 30, 2 ** 30)).toThrow(/memory for 2 machines/)
  expect(() => checkMemory(2, 3 * 2 ** 30, 2 ** 30)).not.toThrow()
})

test('a machine has its part of the memory, whatever else runs', () => {
  const [g2, g4, g8] = [2 * 2 ** 30, 4 * 2 ** 30, 8 * 2 ** 30]
  expect(memoryProblem(g2, 2, g8)).toBeUndefined()
  expect(memoryProblem(g2, 4, g8)).toBe(
    'a machine with 2.0 GiB of RAM takes 2.4 GiB; there are 8.0 GiB, 2.0 GiB for each of 4 at a time',
  )
  expect(memoryProblem(g8, 1, g8)).toBe('a machine with 8.0 GiB of RAM takes 8.4 GiB; there are 8.0 GiB')
  expect(() => checkMemory(2, g4, g4)).toThrow('--jobs 2: there is memory for 1 machine of 4496 MiB each')
})

test('a process that allocates more than it may is told once; one that does not, and one that is gone, never', async () => {
  const grow = (mib: number) =>
    spawn(
      process.execPath,
      ['-e', `globalThis.kept = Buffer.alloc(${mib} << 20, 1); console.log('grown'); setInterval(() => {}, 1000)`],
      { stdio: ['ignore', 'pipe', 'inherit'] },
    )
  const [small, large] = [grow(1), grow(300)]
  const problems: string[] = []
  const ends: (() => void)[] = []
  try {
    await Promise.all([small, large].map(({ stdout }) => once(stdout, 'data')))
    const told = new Promise<void>(resolve => {
      const over = (problem: string) => {
        problems.push(problem)
        resolve()
      }
      for (const { pid } of [small, large]) ends.push(limitMemory(pid ?? 0, over, 200 << 20))
    })
    ends.push(limitMemory(2 ** 22 + 1, problem => problems.push(problem), 1))
    await told
    // Two more looks.
    await new Promise(resolve => setTimeout(resolve, 1_200))
    expect(problems).toHaveLength(1)
    expect(problems[0]).toMatch(/^QEMU allocated 3\d\d MiB besides the guest's RAM; a session has 200 MiB$/)
  } finally {
    for (const end of ends) end()
    for (const child of [small, large]) child.kill()
  }
})
