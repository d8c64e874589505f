// SPDX-License-Identifier: Apache-2.0
import { Choices } from './choices.ts'
import { describe, kindOf, type Target } from './target.ts'

const SHRINK_MS = 3_000

/** A shorter input that ends in the same finding, as far as it is found in a few seconds. */
export async function shrink(target: Target, input: Uint8Array, kind: string): Promise<Uint8Array> {
  const end = performance.now() + SHRINK_MS
  let best = input
  for (let part = Math.max(1, best.length >> 1); part >= 1; part >>= 1) {
    for (let at = 0; at < best.length && performance.now() < end; ) {
      const shorter = Uint8Array.of(...best.subarray(0, at), ...best.subarray(at + part))
      if (await fails(target, shorter, kind)) best = shorter
      else at += part
    }
  }
  return best
}

async function fails(target: Target, input: Uint8Array, kind: string): Promise<boolean> {
  try {
    await target.run(new Choices(input))
    return false
  } catch (error) {
    return kindOf(describe(error)) === kind
  }
}
