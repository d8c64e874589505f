// SPDX-License-Identifier: Apache-2.0
/** Symbols of a 64-bit little-endian ELF file: read from vmlinux, and written for gdb. */
import { closeSync, fstatSync, openSync, readSync } from 'node:fs'
import type { ImageSymbol } from './kallsyms.ts'

const MAGIC = '\x7fELF'
const ELFCLASS64 = 2
const ELFDATA2LSB = 1
const ET_EXEC = 2
const EM_AARCH64 = 183
const SHT_SYMTAB = 2
const SHT_STRTAB = 3
const SHT_NOBITS = 8
const SHF_WRITE = 1
const SHF_ALLOC = 2
const SHF_EXECINSTR = 4
const STT_OBJECT = 1
const STT_FUNC = 2
const STT_FILE = 4
const STB_LOCAL = 0
const STB_GLOBAL = 1

const EHDR = 64
const SHDR = 64
const SYM = 24

/** More than any kernel has, bytes of its symbol and of its string table. */
const MAX_TABLE = 256 << 20

/** Longer names are left out: no kernel has them. */
const MOST_NAME = 2048

/** @throws Error when it cannot be read */
export function isElfFile(path: string): boolean {
  const fd = openSync(path, 'r')
  try {
    const bytes = Buffer.alloc(MAGIC.length)
    readSync(fd, bytes, 0, bytes.length, 0)
    return bytes.toString('latin1') === MAGIC
  } finally {
    closeSync(fd)
  }
}

interface Section {
  readonly type: number
  readonly flags: number
  readonly offset: number
  readonly size: number
  readonly link: number
}

/** Copies a part of a file. @throws Error when it is not all there, or too long */
function part(fd: number, offset: number, length: number, what: string): Buffer {
  if (length > MAX_TABLE || offset + length > fstatSync(fd).size) throw new Error(`${what} is not within the file`)
  const bytes = Buffer.alloc(length)
  if (readSync(fd, bytes, 0, length, offset) !== length) throw new Error(`${what} cannot be read`)
  return bytes
}

const u64 = (bytes: Buffer, at: number): number => Number(bytes.readBigUInt64LE(at))

function sections(fd: number): Section[] {
  const header = part(fd, 0, EHDR, 'its header')
  if (header[4] !== ELFCLASS64 || header[5] !== ELFDATA2LSB || header.readUInt16LE(18) !== EM_AARCH64) {
    throw new Error('this ELF file is not of a little-endian arm64 kernel')
  }
  if (header.readUInt16LE(58) !== SHDR) throw new Error('it has no section headers')
  const count = header.readUInt16LE(60)
  const table = part(fd, u64(header, 40), count * SHDR, 'its section header table')
  return Array.from({ length: count }, (_, i) => ({
    type: table.readUInt32LE(i * SHDR + 4),
    flags: u64(table, i * SHDR + 8),
    offset: u64(table, i * SHDR + 24),
    size: u64(table, i * SHDR + 32),
    link: table.readUInt32LE(i * SHDR + 40),
  }))
}

/** As nm prints it: t is code, d is not; a capital letter for what is global. */
function typeOf({ flags }: Section, binding: number): string {
  const letter = (flags & SHF_EXECINSTR) !== 0 ? 't' : 'd'
  return binding === STB_LOCAL ? letter : letter.toUpperCase()
}

/**
 * The symbols of an ELF file, as vmlinux. Of a large file only the tables are read.
 * @throws Error that says what is wrong with it
 */
export function elfSymbols(path: string): ImageSymbol[] {
  const fd = openSync(path, 'r')
  try {
    const all = sections(fd)
    const table = all.find(({ type }) => type === SHT_SYMTAB)
    const strings = table && all[table.link]
    if (table === undefined || strings === undefined) throw new Error('it has no symbol table: it is stripped')
    const symbols = part(fd, table.offset, table.size, 'its symbol table')
    const names = part(fd, strings.offset, strings.size, 'its string table')
    const found: ImageSymbol[] = []
    for (let at = 0; at + SYM <= symbols.length; at += SYM) {
      const info = symbols.readUInt8(at + 4)
      const section = all[symbols.readUInt16LE(at + 6)]
      const start = symbols.readUInt32LE(at)
      const length = names.subarray(start, start + MOST_NAME).indexOf(0)
      if (section === undefined || (section.flags & SHF_ALLOC) === 0 || (info & 0xf) === STT_FILE) continue
      if (start === 0 || length <= 0) continue
      const name = names.toString('latin1', start, start + length)
      if (name.startsWith('$')) continue // where code and data begin, by the ABI
      found.push({ address: symbols.readBigUInt64LE(at + 8), type: typeOf(section, info >> 4), name })
    }
    return found
  } finally {
    closeSync(fd)
  }
}

/** In front of the sections' headers. */
const SECTION_NAMES = '\0.text\0.data\0.symtab\0.strtab\0.shstrtab\0'
const TEXT = 1
const DATA = 2
const SYMTAB = 3
const STRTAB = 4
const SHSTRTAB = 5

/**
 * An ELF file with nothing but symbols in it, for gdb's symbol-file: names and addresses, no types and no lines.
 * @param offset added to each address
 */
export function symbolFile(symbols: readonly ImageSymbol[], offset: bigint): Buffer {
  // What is local comes first.
  const ordered = symbols.toSorted((a, b) => Number(isGlobal(a)) - Number(isGlobal(b)))
  const locals = ordered.findIndex(isGlobal)
  const names = Buffer.from(`\0${ordered.map(({ name }) => `${name}\0`).join('')}`, 'latin1')
  const table = Buffer.alloc((ordered.length + 1) * SYM)
  const ranges = { [TEXT]: newRange(), [DATA]: newRange() }
  let nameAt = 1
  for (const [i, { address, type, name }] of ordered.entries()) {
    const at = (i + 1) * SYM
    const isCode = /[tTwW]/.test(type)
    const place = BigInt.asUintN(64, address + offset)
    table.writeUInt32LE(nameAt, at)
    table.writeUInt8(
      ((type === type.toLowerCase() ? STB_LOCAL : STB_GLOBAL) << 4) | (isCode ? STT_FUNC : STT_OBJECT),
      at + 4,
    )
    table.writeUInt16LE(isCode ? TEXT : DATA, at + 6)
    table.writeBigUInt64LE(place, at + 8)
    const range = ranges[isCode ? TEXT : DATA]
    if (place < range.start) range.start = place
    if (place >= range.end) range.end = place + 1n
    nameAt += name.length + 1
  }
  const sectionNames = Buffer.from(SECTION_NAMES, 'latin1')
  const [tableAt, namesAt] = [EHDR, EHDR + table.length]
  const sectionNamesAt = namesAt + names.length
  const headersAt = Math.ceil((sectionNamesAt + sectionNames.length) / 8) * 8
  const headers = Buffer.alloc(6 * SHDR)
  const header = (index: number, name: string, fields: Partial<SectionHeader>) =>
    writeSection(headers, index * SHDR, SECTION_NAMES.indexOf(`\0${name}\0`) + 1, fields)
  const memory = ({ start, end }: Range) => ({
    type: SHT_NOBITS,
    address: end > start ? start : 0n,
    size: end > start ? end - start : 0n,
  })
  header(TEXT, '.text', { ...memory(ranges[TEXT]), flags: SHF_ALLOC | SHF_EXECINSTR, align: 4 })
  header(DATA, '.data', { ...memory(ranges[DATA]), flags: SHF_ALLOC | SHF_WRITE, align: 4 })
  header(SYMTAB, '.symtab', {
    type: SHT_SYMTAB,
    offset: tableAt,
    size: BigInt(table.length),
    link: STRTAB,
    info: 1 + (locals < 0 ? ordered.length : locals),
    align: 8,
    entry: SYM,
  })
  header(STRTAB, '.strtab', { type: SHT_STRTAB, offset: namesAt, size: BigInt(names.length), align: 1 })
  header(SHSTRTAB, '.shstrtab', {
    type: SHT_STRTAB,
    offset: sectionNamesAt,
    size: BigInt(sectionNames.length),
    align: 1,
  })
  const padding = Buffer.alloc(headersAt - sectionNamesAt - sectionNames.length)
  return Buffer.concat([fileHeader(headersAt), table, names, sectionNames, padding, headers])
}

const isGlobal = ({ type }: ImageSymbol): boolean => type !== type.toLowerCase()

interface Range {
  start: bigint
  end: bigint
}

const newRange = (): Range => ({ start: (1n << 64n) - 1n, end: 0n })

interface SectionHeader {
  readonly type: number
  readonly flags: number
  readonly address: bigint
  readonly offset: number
  readonly size: bigint
  readonly link: number
  readonly info: number
  readonly align: number
  readonly entry: number
}

function writeSection(to: Buffer, at: number, name: number, section: Partial<SectionHeader>): void {
  const { type = 0, flags = 0, address = 0n, offset = 0, size = 0n, link = 0, info = 0, align = 0, entry = 0 } = section
  to.writeUInt32LE(name, at)
  to.writeUInt32LE(type, at + 4)
  to.writeBigUInt64LE(BigInt(flags), at + 8)
  to.writeBigUInt64LE(address, at + 16)
  to.writeBigUInt64LE(BigInt(offset), at + 24)
  to.writeBigUInt64LE(size, at + 32)
  to.writeUInt32LE(link, at + 40)
  to.writeUInt32LE(info, at + 44)
  to.writeBigUInt64LE(BigInt(align), at + 48)
  to.writeBigUInt64LE(BigInt(entry), at + 56)
}

function fileHeader(sectionsAt: number): Buffer {
  const header = Buffer.alloc(EHDR)
  header.write(MAGIC, 'latin1')
  header.writeUInt8(ELFCLASS64, 4)
  header.writeUInt8(ELFDATA2LSB, 5)
  header.writeUInt8(1, 6) // EI_VERSION
  header.writeUInt16LE(ET_EXEC, 16)
  header.writeUInt16LE(EM_AARCH64, 18)
  header.writeUInt32LE(1, 20) // e_version
  header.writeBigUInt64LE(BigInt(sectionsAt), 40)
  header.writeUInt16LE(EHDR, 52)
  header.writeUInt16LE(SHDR, 58)
  header.writeUInt16LE(6, 60)
  header.writeUInt16LE(SHSTRTAB, 62)
  return header
}
