// SPDX-License-Identifier: Apache-2.0
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { ARM_SMMU_CR0, ARM_SMMU_IDR0 } from '../../../server/smmu/registers.ts'
import { imageSymbols } from '../../../server/trace/kallsyms.ts'
import { TraceReader } from '../../../server/trace/reader.ts'
import { RunningKernel } from '../../../server/trace/runningKernel.ts'
import { loadFunctions, locate, Symbols } from '../../../server/trace/symbols.ts'
import { folder, recording, trap } from './synthetic.ts'

const BASE = 0xffff_8000_8000_0000n

/** Functions of 256 bytes, some of them the driver's, behind the start of the kernel. */
const FUNCTIONS = Array.from({ length: 1000 }, (_, i) => ({
  offset: i === 0 ? 0 : 0x1_0000 + i * 256,
  name: i >= 500 && i < 520 ? `arm_smmu_function_${i}` : `function_${'x'.repeat(i === 7 ? 130 : 3)}_${i}`,
}))

type Order = '6.1' | '6.1 with seqs' | '6.12' | '7.3'

/** What scripts/kallsyms.c would put into an image: a token for every character, and one for "arm_smmu". */
function image(order: Order, driver = 'arm_smmu'): Buffer {
  const tokens = Array.from({ length: 256 }, (_, i) => (i === 0x80 ? driver : String.fromCharCode(i || 1)))
  const alignment = order === '7.3' ? 4 : 8
  const align = (bytes: Buffer) =>
    Buffer.concat([bytes, Buffer.alloc((alignment - (bytes.length % alignment)) % alignment)])
  const words = (values: number[]) => align(Buffer.from(Uint32Array.from(values).buffer))
  const markers: number[] = []
  const names: Buffer[] = []
  let length = 0
  FUNCTIONS.forEach(({ name }, i) => {
    if (i % 256 === 0) markers.push(length)
    const text = Buffer.from(`t${name}`.replace('arm_smmu', '\x80'), 'latin1')
    const size = text.length < 0x80 ? [text.length] : [0x80 | (text.length & 0x7f), text.length >> 7]
    names.push(Buffer.from(size), text)
    length += size.length + text.length
  })
  const index: number[] = []
  let at = 0
  for (const token of tokens) {
    index.push(at)
    at += token.length + 1
  }
  const tokenTable = align(Buffer.from(`${tokens.join('\0')}\0`, 'latin1'))
  const tokenIndex = align(Buffer.from(Uint16Array.from(index).buffer))
  const offsets = words(FUNCTIONS.map(({ offset }) => offset))
  const nameParts = [words([FUNCTIONS.length]), align(Buffer.concat(names)), words(markers)]
  const seqs = align(Buffer.alloc(3 * FUNCTIONS.length, 0x5a))
  const relative = Buffer.alloc(8)
  const start = Buffer.alloc(4096, 0x11)
  start.write('ARM\x64', 56, 'latin1')
  if (order === '7.3') {
    // An odd number of words in front, so that what follows is at no multiple of 8; offsets count from where they are.
    const front = Buffer.concat([start, Buffer.alloc(4, 0x11), ...nameParts, tokenTable, tokenIndex])
    const places = FUNCTIONS.map(({ offset }, i) => (offset - (front.length + 4 * i)) >>> 0)
    return Buffer.concat([
      front,
      words(places),
      align(Buffer.alloc(3 * FUNCTIONS.length, 0x5a)),
      Buffer.alloc(4096, 0x22),
    ])
  }
  const parts =
    order === '6.12'
      ? [...nameParts, tokenTable, tokenIndex, offsets, relative]
      : [offsets, relative, ...nameParts, ...(order === '6.1' ? [] : [seqs]), tokenTable, tokenIndex]
  return Buffer.concat([start, ...parts, Buffer.alloc(4096, 0x22)])
}

test.each(['6.1', '6.1 with seqs', '6.12', '7.3'] as const)(
  'the symbol table of an image, in the order of %s',
  order => {
    const symbols = imageSymbols(image(order))
    expect(symbols?.length).toBe(FUNCTIONS.length)
    expect(symbols?.map(({ name }) => name)).toEqual(FUNCTIONS.map(({ name }) => name))
    expect(symbols?.map(({ address }) => Number(address - BASE))).toEqual(FUNCTIONS.map(({ offset }) => offset))
    expect(symbols?.[3]?.type).toBe('t')
  },
)

test('no table, half a table, or nonsense: none is found', () => {
  expect(imageSymbols(Buffer.alloc(10_000))).toBeUndefined()
  for (const order of ['6.12', '7.3'] as const) damage(image(order))
})

test('tokens that are longer than a name may be are none: names would take all memory', () => {
  expect(imageSymbols(image('6.12', 'x'.repeat(400)))?.length).toBe(FUNCTIONS.length)
  expect(imageSymbols(image('6.12', 'x'.repeat(600)))).toBeUndefined()
})

function damage(whole: Buffer): void {
  for (let size = 4096; size < whole.length - 4096; size += 777) imageSymbols(whole.subarray(0, size))
  for (let at = 4096; at < whole.length - 4096; at += 97) {
    const damaged = Buffer.from(whole)
    damaged[at] = (damaged[at] ?? 0) ^ 0xff
    imageSymbols(damaged)
  }
}

const map = FUNCTIONS.map(({ offset, name }) => `${(BASE + BigInt(offset)).toString(16)} t ${name}`).join('\n')

test('an image and a System.map say the same', () => {
  const path = join(folder(), 'symbols')
  writeFileSync(path, image('6.1'))
  const fromImage = Symbols.load(path)
  writeFileSync(path, `${map}\n`)
  const fromMap = Symbols.load(path)
  writeFileSync(path, gzipSync(image('7.3')))
  expect(Symbols.load(path).describe(BASE + 0x1_0000n + 500n * 256n)).toBe('arm_smmu_function_500+0x0')
  const pc = BASE + 0x1_0000n + 500n * 256n + 0x10n
  expect(fromImage.describe(pc)).toBe('arm_smmu_function_500+0x10')
  expect(fromMap.describe(pc)).toBe('arm_smmu_function_500+0x10')
  expect(fromMap.describe(BASE - 4n)).toBe('0xffff80007ffffffc')
})

test('the place of the kernel is worked out from where traps come from', () => {
  const path = join(folder(), 'symbols')
  writeFileSync(path, map)
  const symbols = Symbols.load(path)
  const moved = 0x1234_5678_0000n
  const pcs = (spread: number) =>
    new Set(
      Array.from({ length: 12 }, (_, i) => BASE + moved + 0x1_0000n + BigInt((500 + i) * 256 + ((i * spread) % 256))),
    )
  expect(symbols.locate(pcs(36))).toBe(true)
  expect(symbols.offset).toBe(moved)
  expect(symbols.describe([...pcs(36)][1] ?? 0n)).toBe('arm_smmu_function_501+0x24')
  // From elsewhere, or from nowhere: no guess.
  expect(symbols.locate(new Set([BASE + 0x10n, BASE + 0x1_0010n, BASE + 0x1_0110n]))).toBe(false)
  expect(symbols.locate(new Set())).toBe(false)
  expect(symbols.offset).toBe(moved)
})

/** PCs of a kernel that was moved, the last instruction of each of twelve functions of the driver. */
const driverPcs = (moved: bigint) =>
  Array.from({ length: 12 }, (_, i) => BASE + moved + 0x1_0000n + BigInt((500 + i) * 256 + ((i * 36) % 256)))

test('each kernel of a recording has its place: after a reset, and after the one before has started it', async () => {
  const path = join(folder(), 'trace')
  const places = [0x1_0000n, 0x1234_5678_0000n, 0x77_0000_0000n] as const
  await recording(path, writer => {
    let seq = 1
    const access = (pc: bigint, write: boolean, offset: number) =>
      writer.trap(
        { ...trap, seq: seq++, write, offset, pcLo: Number(pc & 0xffff_ffffn), pcHi: Number(pc >> 32n) },
        ...([1, 1, 0, 0] as const),
      )
    places.forEach((moved, i) => {
      if (i === 2) writer.reset(1, 0, 1, 1)
      const pcs = driverPcs(moved)
      // Two SMMUs.
      for (const pc of [pcs[0], pcs[0]]) access(pc ?? 0n, false, ARM_SMMU_IDR0)
      for (const pc of pcs) access(pc, true, ARM_SMMU_CR0)
    })
  })
  const file = join(folder(), 'symbols')
  writeFileSync(file, map)
  const symbols = Symbols.load(file)
  expect(locate(symbols, TraceReader.open(path))).toBe(true)
  expect(symbols.offset).toBe(places[0])
  for (const moved of places) {
    expect(symbols.find(driverPcs(moved)[3] ?? 0n)?.name).toBe('arm_smmu_function_503')
    expect(symbols.find(BASE + moved - 4n)).toBeUndefined()
  }
})

test('a running kernel is found anew when the one before has started it, and not when it looks once more', () => {
  const file = join(folder(), 'symbols')
  writeFileSync(file, map)
  const kernel = new RunningKernel()
  kernel.table = loadFunctions(file)
  const boot = (moved: bigint) => {
    const [first = 0n, ...others] = driverPcs(moved)
    const found = [kernel.located({ write: false, offset: ARM_SMMU_IDR0, pc: first })]
    for (const pc of others) found.push(kernel.located({ write: true, offset: ARM_SMMU_CR0, pc }))
    return found.map(symbols => symbols?.offset)
  }
  expect(boot(0x1_0000n).at(-1)).toBe(0x1_0000n)
  const second = boot(0x77_0000_0000n)
  expect([second[0], second.at(-1)]).toEqual([undefined, 0x77_0000_0000n])
  const again = { write: false, offset: ARM_SMMU_IDR0, pc: driverPcs(0x77_0000_0000n)[7] ?? 0n }
  expect(kernel.located(again)?.offset).toBe(0x77_0000_0000n)
  // A write of the offset is no look.
  expect(kernel.located({ ...again, write: true, pc: 0x1000n })?.offset).toBe(0x77_0000_0000n)
})

test('a gap behind a function of the driver, as behind a module, is no function to look in', () => {
  const path = join(folder(), 'symbols')
  const last = BASE - 0x4000_0000_0000n
  writeFileSync(path, `${last.toString(16)} t arm_smmu_last_of_a_module\n${map}\n`)
  const symbols = Symbols.load(path)
  const pcs = [500, 503, 504, 507].map(i => BASE + 0x9_0000n + BigInt(0x1_0000 + i * 256 + 16))
  expect(symbols.locate(new Set(pcs))).toBe(true)
  expect(symbols.offset).toBe(0x9_0000n)
})

test('files that are no symbols are refused with a reason', () => {
  const path = join(folder(), 'symbols')
  const refusal = (content: string | Buffer) => {
    writeFileSync(path, content)
    try {
      Symbols.load(path)
      return ''
    } catch (error) {
      return (error as Error).message
    }
  }
  expect(refusal('ffffffffffffffff B The real System.map is in the linux-image-<version>-dbg package')).toMatch(
    /no function in it/,
  )
  expect(refusal('0000000000000000 T _text\n0000000000000000 t f\n')).toMatch(/kptr_restrict/)
  const bare = Buffer.alloc(5000)
  bare.write('ARM\x64', 56, 'latin1')
  expect(refusal(bare)).toMatch(/CONFIG_KALLSYMS/)
})
