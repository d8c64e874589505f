// SPDX-License-Identifier: Apache-2.0

/** Set-up alone, with what the tests need beside it, for npm scripts that are not our own command line. */

import { ensureBrowser, ensureDebugger, ensureKubectl, ensureRedis, SetupError, setup } from './index.ts'

const abort = new AbortController()
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => abort.abort())

try {
  await setup({ signal: abort.signal })
  await ensureBrowser({ signal: abort.signal })
  await ensureDebugger({ signal: abort.signal })
  await ensureRedis({ signal: abort.signal })
  await ensureKubectl({ signal: abort.signal })
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
