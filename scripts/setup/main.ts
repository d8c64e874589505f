// SPDX-License-Identifier: Apache-2.0

/** Set-up alone, for npm scripts that need its result but are not our own command line. */

import { SetupError, setup } from './index.ts'

const abort = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => abort.abort())

try {
  await setup({ signal: abort.signal })
} catch (error) {
  if (abort.signal.aborted) {
    console.error('smmu-cosim: set-up interrupted')
    process.exitCode = 130
  } else if (error instanceof SetupError) {
    console.error(`smmu-cosim: ${error.message}`)
    process.exitCode = 1
  } else {
    throw error
  }
}
