// SPDX-License-Identifier: Apache-2.0
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, test } from 'vitest'
import { checkMemory, fitsMemory, limitMemory } from '../../../server/sessions/memoryLimit.ts'

test('machines that do not fit are refused before they start', () => {
  expect(() => checkMemory(4, 3 * 2 ** 30, 2 ** 30)).toThrow(/memory for 2 machines/)
  expect(() => checkMemory(2, 3 * 2 ** 30, 2 ** 30)).not.toThrow()
})

test('a machine that does not fit alone is known', () => {
  expect(fitsMemory(2 * 2 ** 30, 3 * 2 ** 30)).toBe(true)
  expect(fitsMemory(3 * 2 ** 30, 3 * 2 ** 30)).toBe(false)
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
