// SPDX-License-Identifier: Apache-2.0
/**
 * An inspector for each thread, for debuggers that do not look for workers by themselves, as Chrome's:
 *
 *     node_modules/.bin/node --import ./scripts/inspect.mjs server/cli/main.ts boot --interactive
 */
import { open } from 'node:inspector'
import { isMainThread, workerData } from 'node:worker_threads'

if (isMainThread) open(9229)
// The trap thread is the one that is told where to listen for QEMU (server/trap/messages.ts).
else if (workerData?.listen !== undefined) open(9230)
