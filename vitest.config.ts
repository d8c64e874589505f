// SPDX-License-Identifier: Apache-2.0
import { defineConfig, mergeConfig } from 'vitest/config'
import { machineTests, REPORTER } from './server/testing/config.ts'

/** One project after the other, so that neither unit tests nor a browser compete with guests for the processors. */
const project = (
  order: number,
  name: string,
  include: string[],
  timeout: number,
  workers: object = { maxWorkers: 1 },
) => ({
  test: {
    name,
    include,
    testTimeout: timeout,
    hookTimeout: timeout,
    // What is waited for comes at once, but on a machine that others use too.
    expect: { poll: { timeout: 30_000 } },
    sequence: { groupOrder: order },
    ...workers,
  },
})

/** Fast and pure first; then a real Redis, and the real QEMU without a kernel; then real boots; then a browser on one; then Docker. */
export default defineConfig({
  test: {
    reporters: ['default', REPORTER],
    projects: [
      project(0, 'unit', ['test/unit/**/*.test.ts', 'test/restart/unit/**/*.test.ts'], 120_000, {}),
      project(1, 'fleet', ['test/fleet/**/*.test.ts'], 120_000),
      project(1, 'qtest', ['test/qtest/**/*.test.ts'], 120_000),
      // A guest keeps little more than one processor busy: of two at a time, each takes hardly longer.
      project(2, 'boot', ['test/boot/**/*.test.ts', 'test/restart/boot/**/*.test.ts'], 300_000, { maxWorkers: 2 }),
      // As `smmu-cosim test` runs them; their machines start from snapshots.
      mergeConfig(machineTests(), project(2, 'scenarios', ['test/scenarios/**/*.test.ts'], 300_000, { maxWorkers: 2 })),
      project(3, 'web', ['test/web/**/*.test.ts'], 300_000),
      project(4, 'docker', ['test/docker/**/*.test.ts'], 1_800_000),
    ],
  },
})
