// SPDX-License-Identifier: Apache-2.0
/** Runs one target in a thread that can be ended, with limited memory. Started by run.ts. */
import { parentPort, workerData } from 'node:worker_threads'
import { Choices } from './choices.ts'
import { Inputs, MAX_INPUT } from './inputs.ts'
import { Random } from './random.ts'
import { shrink } from './shrink.ts'
import { describe, kindOf, type Target } from './target.ts'

export interface WorkerOptions {
  /** Module whose default export is the target. */
  readonly module: string
  readonly seed: number
  readonly corpus: readonly Uint8Array[]
  readonly ms: number
  /** Ends after so many inputs at the latest. */
  readonly inputs: number
  /** Number of the input that is being tried, its length, its bytes. */
  readonly present: SharedArrayBuffer
}

export type WorkerMessage =
  | { readonly done: { readonly inputs: number; readonly outcomes: number } }
  | { readonly found: { readonly message: string; readonly input: Uint8Array } }

/** Bytes in front of the input in `present`. */
export const PRESENT_HEADER = 8
export const PRESENT_BYTES = PRESENT_HEADER + MAX_INPUT

/** So many findings of one target are enough. */
const MAX_FINDINGS = 10

async function main(port: NonNullable<typeof parentPort>): Promise<void> {
  const { module, seed, corpus, ms, inputs: most, present } = workerData as WorkerOptions
  const { default: target } = (await import(module)) as { default: Target }
  const inputs = new Inputs(new Random(seed), corpus)
  const state = new Int32Array(present, 0, 2)
  const bytes = new Uint8Array(present, PRESENT_HEADER)
  const seen = new Set<string>()
  const end = performance.now() + ms
  let count = 0
  while (count < most && performance.now() < end && seen.size < MAX_FINDINGS) {
    const input = inputs.next()
    bytes.set(input)
    Atomics.store(state, 1, input.length)
    Atomics.store(state, 0, ++count)
    try {
      inputs.learn(input, await target.run(new Choices(input)))
    } catch (error) {
      const message = describe(error)
      const kind = kindOf(message)
      if (seen.has(kind)) continue
      seen.add(kind)
      port.postMessage({ found: { message, input: await shrink(target, input, kind) } } satisfies WorkerMessage)
    }
  }
  await target.close?.()
  port.postMessage({ done: { inputs: count, outcomes: inputs.outcomes } } satisfies WorkerMessage)
}

if (parentPort !== null && (workerData as WorkerOptions | null)?.module !== undefined) {
  await main(parentPort)
  // A target may have left timers behind.
  process.exit()
}
