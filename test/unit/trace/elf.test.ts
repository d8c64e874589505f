// SPDX-License-Identifier: Apache-2.0
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { gzipSync } from 'node:zlib'
import { expect, test } from 'vitest'
import { elfSymbols, isElfFile, symbolFile } from '../../../server/trace/elf.ts'
import type { ImageSymbol } from '../../../server/trace/kallsyms.ts'
import { loadFunctions, loadSymbols, Symbols } from '../../../server/trace/symbols.ts'
import { folder } from './synthetic.ts'

const BASE = 0xffff_8000_8000_0000n
const SYMBOLS: readonly ImageSymbol[] = [
  { address: BASE, type: 'T', name: '_text' },
  { address: BASE + 0x100n, type: 't', name: 'arm_smmu_write_ste' },
  { address: BASE + 0x180n, type: 'T', name: 'arm_smmu_attach_dev' },
  { address: BASE + 0x200n, type: 't', name: 'last_function' },
  { address: BASE + 0x1000n, type: 'D', name: 'linux_banner' },
  { address: BASE + 0x1008n, type: 'b', name: 'some_variable' },
]

const byName = (symbols: readonly ImageSymbol[]) =>
  symbols.map(({ address, name }) => `${name} ${address.toString(16)}`).sort()

test('what is written for gdb is what is read of a vmlinux, moved by as much as the kernel was', () => {
  const path = join(folder(), 'vmlinux')
  const moved = 0x1234_0000n
  writeFileSync(path, symbolFile(SYMBOLS, moved))
  expect(isElfFile(path)).toBe(true)
  const read = loadSymbols(path)
  expect(byName(read)).toEqual(byName(SYMBOLS.map(symbol => ({ ...symbol, address: symbol.address + moved }))))
  // What is code is known by its section, what is global by its binding.
  const types = new Map(read.map(({ name, type }) => [name, type]))
  expect(['_text', 'arm_smmu_write_ste', 'linux_banner', 'some_variable'].map(name => types.get(name))).toEqual([
    'T',
    't',
    'D',
    'd',
  ])
  expect(loadFunctions(path).addresses.length).toBe(4)
  expect(new Symbols(loadFunctions(path)).describe(BASE + moved + 0x184n)).toBe('arm_smmu_attach_dev+0x4')
})

test('functions of a name: where they begin and end, moved; parts and second names as well', () => {
  const path = join(folder(), 'System.map')
  const line = (address: bigint, name: string) => `${address.toString(16)} t ${name}\n`
  writeFileSync(
    path,
    [
      line(BASE, 'f'),
      line(BASE, 'alias_of_f'),
      line(BASE + 0x20n, 'g'),
      line(BASE + 0x40n, 'f.cold'),
      line(BASE + 0x60n, 'end'),
    ].join(''),
  )
  const symbols = Symbols.load(path)
  symbols.offset = 0x1_0000n
  const at = (offset: bigint) => BASE + 0x1_0000n + offset
  expect(symbols.named('f')).toEqual([
    [at(0n), at(0x20n)],
    [at(0x40n), at(0x60n)],
  ])
  expect(symbols.named('alias_of_f')).toEqual([[at(0n), at(0x20n)]])
  expect(symbols.named('no_such')).toEqual([])
})

test('a file that is cut short or damaged is refused, or has other symbols: nothing else happens', () => {
  const path = join(folder(), 'vmlinux')
  const whole = symbolFile(SYMBOLS, 0n)
  const attempt = (bytes: Buffer): string => {
    writeFileSync(path, bytes)
    try {
      return `${elfSymbols(path).length}`
    } catch (error) {
      return (error as Error).message
    }
  }
  expect(attempt(whole)).toBe('6')
  for (let size = 0; size < whole.length; size += 7) expect(attempt(whole.subarray(0, size))).not.toBe('6')
  for (let at = 0; at < whole.length; at++) {
    const damaged = Buffer.from(whole)
    damaged[at] = (damaged[at] ?? 0) ^ 0xff
    attempt(damaged)
  }
  const other = Buffer.from(whole)
  other.writeUInt16LE(62, 18) // x86-64
  expect(attempt(other)).toMatch(/not of a little-endian arm64 kernel/)
  const stripped = Buffer.from(whole)
  const headers = Number(stripped.readBigUInt64LE(40))
  stripped.writeUInt32LE(1, headers + 3 * 64 + 4)
  expect(attempt(stripped)).toMatch(/stripped/)
})

test('a name without an end is none, and is not looked for over and over', () => {
  const path = join(folder(), 'vmlinux')
  const long = { address: BASE, type: 'T', name: 'x'.repeat(5000) }
  writeFileSync(path, symbolFile([long, ...SYMBOLS], 0n))
  expect(byName(elfSymbols(path))).toEqual(byName(SYMBOLS))
})

test('a System.map may be packed, as an image may', () => {
  const path = join(folder(), 'map.gz')
  writeFileSync(path, gzipSync(`${BASE.toString(16)} T _text\n${(BASE + 16n).toString(16)} T _end\n`))
  expect(loadSymbols(path).map(({ name }) => name)).toEqual(['_text', '_end'])
})
