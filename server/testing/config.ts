// SPDX-License-Identifier: Apache-2.0
/** How vitest runs tests with machines. */
import { fileURLToPath } from 'node:url'
import type { ViteUserConfig } from 'vitest/config'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const ENTRY = fileURLToPath(new URL('index.ts', import.meta.url))
/** Of vitest's `reporters`. */
export const REPORTER = fileURLToPath(new URL('reporter.ts', import.meta.url))

/** The first test of its kind boots a guest and saves it, ms. */
export const TEST_TIMEOUT_MS = 300_000

const literally = (text: string): string => text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')

/** `smmu-cosim/test` is found in any folder, and loaded as it is: Node strips the types. */
export const machineTests = (): ViteUserConfig => ({
  resolve: { alias: [{ find: 'smmu-cosim/test', replacement: ENTRY }] },
  test: {
    testTimeout: TEST_TIMEOUT_MS,
    hookTimeout: TEST_TIMEOUT_MS,
    server: { deps: { external: [new RegExp(`^(file://)?${literally(ROOT)}(server|protocol|scripts)/`)] } },
  },
})
