// SPDX-License-Identifier: Apache-2.0
/**
 * The symbol table that every kernel image with CONFIG_KALLSYMS carries (Linux's scripts/kallsyms.c), found without any
 * help from outside. Names are strings of one-byte tokens; the table of tokens is recognised by its content, the rest lies
 * around it, in the order of 6.1 (offsets, count, names, markers, tokens) or of later ones (count, names, markers, tokens,
 * offsets). Every part starts at a multiple of 8 bytes, in 7.x of 4. An offset is the distance from the start of the kernel,
 * in 7.x from the offset itself.
 */

const TOKENS = 256
const DIGITS = Buffer.from('0\x001\x002\x003\x004\x005\x006\x007\x008\x009\x00', 'latin1')
/** More than any kernel has. */
const MOST_SYMBOLS = 1 << 20
/** Longer names are cut, and longer tokens are none (KSYM_NAME_LEN). */
const MOST_NAME = 512
/** Names between two markers. */
const MARKER_STEP = 256
/** Where arm64's kernels are linked to start; only distances matter, as every boot moves the kernel. */
const LINK_BASE = 0xffff_8000_8000_0000n

export interface ImageSymbol {
  readonly address: bigint
  /** As nm prints it: t or T is a function. */
  readonly type: string
  readonly name: string
}

/** What parts are aligned to: they start at multiples of so many bytes. */
const ALIGNMENTS = [8, 4]

const alignTo = (at: number, alignment: number): number => Math.ceil(at / alignment) * alignment

/** @returns undefined when there is no table in the image. */
export function imageSymbols(image: Buffer): ImageSymbol[] | undefined {
  for (let at = image.indexOf(DIGITS); at >= 0; at = image.indexOf(DIGITS, at + 1)) {
    for (const alignment of ALIGNMENTS) {
      const tokens = findTokens(image, at, alignment)
      const names = tokens && findNames(image, tokens.start, alignment)
      const offsets = names && findOffsets(image, names, tokens.end, alignment)
      if (offsets) return [...decode(image, names, tokens.texts, offsets)]
    }
  }
  return undefined
}

interface Tokens {
  readonly start: number
  readonly end: number
  readonly texts: readonly string[]
}

/** The table of tokens around the one for '0', confirmed by the index that follows it: where each token starts. */
function findTokens(image: Buffer, zero: number, alignment: number): Tokens | undefined {
  let second = zero
  for (let token = 0x30; token > 1; token--) second = image.lastIndexOf(0, second - 2) + 1
  let tableEnd = second
  for (let token = 1; token < TOKENS; token++) tableEnd = image.indexOf(0, tableEnd) + 1
  const indexAt = alignTo(tableEnd, alignment)
  const end = indexAt + 2 * TOKENS
  if (tableEnd <= second || end > image.length) return undefined
  const start = second - image.readUInt16LE(indexAt + 2)
  if (start < 0 || start % alignment !== 0) return undefined
  const texts: string[] = []
  let at = start
  for (let token = 0; token < TOKENS; token++) {
    if (image.readUInt16LE(indexAt + 2 * token) !== at - start) return undefined
    const next = image.indexOf(0, at) + 1
    if (next - at > MOST_NAME) return undefined
    texts.push(image.toString('latin1', at, next - 1))
    at = next
  }
  return { start, end, texts }
}

interface Names {
  /** Of the count in front of them. */
  readonly countAt: number
  readonly start: number
  readonly count: number
}

/** The names lie before the markers, and those before the tokens, with three bytes a name between in some versions. */
function findNames(image: Buffer, tokens: number, alignment: number): Names | undefined {
  for (let between = 0; between <= MOST_SYMBOLS * 3; between += alignment) {
    const markers = findMarkers(image, tokens - between)
    if (markers === undefined) continue
    const most = markers.count * MARKER_STEP
    if (between > 0 && (between > alignTo(3 * most, alignment) || between < 3 * (most - MARKER_STEP))) continue
    const names = namesBefore(image, markers, most, alignment)
    if (names !== undefined) return names
  }
  return undefined
}

/** Markers are where every 256th name starts, from 0 up. */
interface Markers {
  /** Of themselves. */
  readonly start: number
  /** Where the names of the last one start. */
  readonly last: number
  readonly count: number
}

function findMarkers(image: Buffer, end: number): Markers | undefined {
  let at = end - 4
  if (at < 8) return undefined
  if (image.readUInt32LE(at) === 0) at -= 4
  const last = image.readUInt32LE(at)
  let count = 1
  for (; at >= 4 && image.readUInt32LE(at) > image.readUInt32LE(at - 4); at -= 4) count++
  return count > 1 && image.readUInt32LE(at) === 0 ? { start: at, last, count } : undefined
}

/** They end where the markers start, but for padding. */
function namesBefore(image: Buffer, markers: Markers, most: number, alignment: number): Names | undefined {
  const { start: end, last } = markers
  const farthest = end - last - MARKER_STEP * 256
  const nearest = end - last - ((end - last) % alignment)
  for (let start = nearest; start >= Math.max(alignment, farthest); start -= alignment) {
    const count = image.readUInt32LE(start - alignment)
    if (count > most - MARKER_STEP && count <= most && endsAt(image, start, count, end, alignment)) {
      return { countAt: start - alignment, start, count }
    }
  }
  return undefined
}

/** Names of up to 127 tokens have a length of one byte, longer ones of two. */
function nameLength(image: Buffer, at: number): { readonly length: number; readonly body: number } {
  const low = image[at] ?? 0
  return low < 0x80
    ? { length: low, body: at + 1 }
    : { length: (low & 0x7f) | ((image[at + 1] ?? 0) << 7), body: at + 2 }
}

function endsAt(image: Buffer, start: number, count: number, end: number, alignment: number): boolean {
  let at = start
  for (let i = 0; i < count && at <= end; i++) {
    const { length, body } = nameLength(image, at)
    if (length === 0) return false
    at = body + length
  }
  return alignTo(at, alignment) === end
}

interface Offsets {
  readonly start: number
  /** Each one counts from where it is itself. */
  readonly ofItself: boolean
}

/** Distance of a symbol from the start of the kernel, modulo 2^32. */
const distance = (image: Buffer, { start, ofItself }: Offsets, i: number): number => {
  const at = start + 4 * i
  return (image.readUInt32LE(at) + (ofItself ? at : 0)) >>> 0
}

/** Where the addresses are, by their being in ascending order from the start of the kernel. */
function findOffsets(
  image: Buffer,
  { countAt, count }: Names,
  tokensEnd: number,
  alignment: number,
): Offsets | undefined {
  const starts = [alignTo(tokensEnd, alignment), countAt - 8 - alignTo(4 * count, alignment)]
  const candidates = starts.flatMap(start => [false, true].map(ofItself => ({ start, ofItself })))
  return candidates.find(offsets => {
    if (offsets.start < 0 || offsets.start + 4 * count > image.length) return false
    let before = distance(image, offsets, 0)
    if (before !== 0) return false
    for (let i = 1; i < count; i++) {
      const next = distance(image, offsets, i)
      if (next < before) return false
      before = next
    }
    return before > 0
  })
}

function* decode(image: Buffer, names: Names, tokens: readonly string[], offsets: Offsets): Generator<ImageSymbol> {
  let at = names.start
  for (let i = 0; i < names.count; i++) {
    const { length, body } = nameLength(image, at)
    at = body + length
    let text = ''
    for (let token = body; token < at && text.length < MOST_NAME; token++) text += tokens[image[token] ?? 0]
    const address = LINK_BASE + BigInt(distance(image, offsets, i))
    yield { address, type: text.slice(0, 1), name: text.slice(1) }
  }
}
