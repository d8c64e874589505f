// SPDX-License-Identifier: Apache-2.0
/**
 * What a protected VM writes into a page as soon as it has it, and expects to find there for as long as it owns it. A page
 * that no longer holds it was written by somebody else: a device with a translation that should be gone, or with one that
 * is wrong.
 */
import type { GuestMemory } from '../smmu/memory.ts'

const PAGE = 4096
const WORDS = PAGE / 4
const words = new Uint32Array(WORDS)
const bytes = new Uint8Array(words.buffer)
const found = new Uint32Array(WORDS)
const foundBytes = new Uint8Array(found.buffer)

/** Every word of every page is another one, so that a page in another page's place shows, too. */
function pattern(page: number): void {
  const seed = Math.imul(page / PAGE, 0x9e37_79b1)
  for (let i = 0; i < WORDS; i++) words[i] = Math.imul(seed ^ (i * 0x85eb_ca6b), 0xc2b2_ae35) | 1
}

/** Fills pages that were just given away. @param base and @param size bytes, whole pages */
export function fillCanary(memory: GuestMemory, base: number, size: number): void {
  for (let page = base; page < base + size; page += PAGE) {
    pattern(page)
    memory.write(page, bytes, 0, PAGE)
  }
}

/** Bytes of the page that are not as `fillCanary` left them: first offset and number of words; undefined: none. */
export function changedCanary(memory: GuestMemory, page: number): { offset: number; words: number } | undefined {
  if (!memory.read(page, foundBytes, 0, PAGE)) return { offset: 0, words: WORDS }
  pattern(page)
  let offset = -1
  let changed = 0
  for (let i = 0; i < WORDS; i++) {
    if (words[i] === found[i]) continue
    if (offset < 0) offset = 4 * i
    changed++
  }
  return changed === 0 ? undefined : { offset, words: changed }
}
