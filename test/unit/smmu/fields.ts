// SPDX-License-Identifier: Apache-2.0
/**
 * Commands, STEs and CDs by named fields, for tests. Positions are literals of IHI 0070's figures, `[hi, lo]` from bit 0 of the
 * structure on, so that a mask that is wrong in the code under test is not wrong here as well.
 */

type Position = readonly [hi: number, lo: number]

/** An address field holds an address from bit `lo` of the structure on, which is bit `lo % 64` of the address. */
const isAddress = (name: string): boolean => /ddress|Ptr|ttb\d?$|s2ttb/.test(name)

function pack(positions: Readonly<Record<string, Position>>, fields: object, words: number): bigint[] {
  const out = new Array<bigint>(words).fill(0n)
  for (const [name, given] of Object.entries(fields) as [string, number | bigint | boolean][]) {
    const [hi, lo] = positions[name]
    const word = Math.floor(lo / 64)
    const mask = ((1n << BigInt(hi - lo + 1)) - 1n) << BigInt(lo % 64)
    const value = BigInt(given)
    const placed = isAddress(name) ? value : value << BigInt(lo % 64)
    if ((placed & ~mask) !== 0n) throw new RangeError(`${name} ${given} does not fit [${hi}:${lo}]`)
    out[word] |= placed
  }
  return out
}

/** IHI 0070 section 5.2 (STE), IHI 0070 section 5.4 (CD), IHI 0070 section 4 (commands). */
const STE = {
  v: [0, 0],
  config: [3, 1],
  s1Fmt: [5, 4],
  s1ContextPtr: [55, 6],
  s1CdMax: [63, 59],
  s1Dss: [65, 64],
  s1Cir: [67, 66],
  s1Cor: [69, 68],
  s1Csh: [71, 70],
  s2Hwu: [75, 72],
  dre: [76, 76],
  cont: [80, 77],
  dcp: [81, 81],
  ppar: [82, 82],
  mev: [83, 83],
  s1Pie: [88, 88],
  s2Fwb: [89, 89],
  s1Mpam: [90, 90],
  s1Stalld: [91, 91],
  eats: [93, 92],
  strw: [95, 94],
  memAttr: [99, 96],
  mtCfg: [100, 100],
  allocCfg: [104, 101],
  shCfg: [109, 108],
  nsCfg: [111, 110],
  privCfg: [113, 112],
  instCfg: [115, 114],
  s2Vmid: [143, 128],
  s2T0sz: [165, 160],
  s2Sl0: [167, 166],
  s2Ir0: [169, 168],
  s2Or0: [171, 170],
  s2Sh0: [173, 172],
  s2Tg: [175, 174],
  s2Ps: [178, 176],
  s2Aa64: [179, 179],
  s2Endi: [180, 180],
  s2Affd: [181, 181],
  s2Ptw: [182, 182],
  s2Hd: [183, 183],
  s2Ha: [184, 184],
  s2S: [185, 185],
  s2R: [186, 186],
  s2ttb: [243, 196],
  partId: [287, 272],
  pmg: [327, 320],
  vmsPtr: [375, 332],
} as const satisfies Record<string, Position>

const CD = {
  t0sz: [5, 0],
  tg0: [7, 6],
  ir0: [9, 8],
  or0: [11, 10],
  sh0: [13, 12],
  epd0: [14, 14],
  endi: [15, 15],
  t1sz: [21, 16],
  tg1: [23, 22],
  epd1: [30, 30],
  v: [31, 31],
  ips: [34, 32],
  affd: [35, 35],
  aa64: [41, 41],
  s: [44, 44],
  r: [45, 45],
  a: [46, 46],
  aset: [47, 47],
  asid: [63, 48],
  ttb0: [115, 68],
  ttb1: [179, 132],
  mair: [255, 192],
} as const satisfies Record<string, Position>

const COMMAND = {
  opcode: [7, 0],
  ssec: [10, 10],
  ssv: [11, 11],
  ssid: [31, 12],
  sid: [63, 32],
  leaf: [64, 64],
  range: [68, 64],
  vmid: [47, 32],
  asid: [63, 48],
  num: [16, 12],
  scale: [24, 20],
  ttl: [73, 72],
  tg: [75, 74],
  address: [127, 76],
  size: [69, 64],
  global: [9, 9],
  cs: [13, 12],
  msh: [23, 22],
  msiAttr: [27, 24],
  msiData: [63, 32],
  msiAddress: [119, 66],
  prgIndex: [72, 64],
  resp: [77, 76],
  stag: [79, 64],
  action: [13, 12],
} as const satisfies Record<string, Position>

type Fields<P> = { readonly [K in keyof P]?: number | bigint | boolean }

export type SteFields = Fields<typeof STE>
export type CdFields = Fields<typeof CD>
export type CommandFields = Fields<Omit<typeof COMMAND, 'opcode'>>

function replace(positions: Readonly<Record<string, Position>>, words: BigUint64Array, fields: object): void {
  for (const name of Object.keys(fields)) {
    const [hi, lo] = positions[name]
    words[Math.floor(lo / 64)] &= ~(((1n << BigInt(hi - lo + 1)) - 1n) << BigInt(lo % 64))
  }
  pack(positions, fields, words.length).forEach((word, i) => {
    words[i] |= word
  })
}

/** Replaces fields of an STE. */
export function setSte(words: BigUint64Array, fields: SteFields): void {
  replace(STE, words, fields)
}

/** Replaces fields of a CD. */
export function setCd(words: BigUint64Array, fields: CdFields): void {
  replace(CD, words, fields)
}

/** Eight 64-bit words. V is 1 unless given. */
export function ste(fields: SteFields): bigint[] {
  return pack(STE, { v: 1, ...fields }, 8)
}

/** Eight 64-bit words. V and AA64 are 1 unless given. */
export function cd(fields: CdFields): bigint[] {
  return pack(CD, { v: 1, aa64: 1, ...fields }, 8)
}

/** Opcodes (IHI 0070 section 4.1.1). */
export const OPCODES = {
  PREFETCH_CONFIG: 0x01,
  PREFETCH_ADDR: 0x02,
  CFGI_STE: 0x03,
  CFGI_STE_RANGE: 0x04,
  CFGI_CD: 0x05,
  CFGI_CD_ALL: 0x06,
  TLBI_NH_ALL: 0x10,
  TLBI_NH_ASID: 0x11,
  TLBI_NH_VA: 0x12,
  TLBI_NH_VAA: 0x13,
  TLBI_EL2_ALL: 0x20,
  TLBI_EL2_ASID: 0x21,
  TLBI_EL2_VA: 0x22,
  TLBI_EL2_VAA: 0x23,
  TLBI_S12_VMALL: 0x28,
  TLBI_S2_IPA: 0x2a,
  TLBI_NSNH_ALL: 0x30,
  ATC_INV: 0x40,
  PRI_RESP: 0x41,
  RESUME: 0x44,
  STALL_TERM: 0x45,
  SYNC: 0x46,
} as const

/** Four 32-bit words. An opcode that has no name may be a number. */
export function command(opcode: keyof typeof OPCODES | number, fields: CommandFields = {}): number[] {
  const code = typeof opcode === 'number' ? opcode : OPCODES[opcode]
  return pack(COMMAND, { opcode: code, ...fields }, 2).flatMap(word => [
    Number(word & 0xffff_ffffn),
    Number(word >> 32n),
  ])
}

/** CS of CMD_SYNC. */
export const CS_NONE = 0
export const CS_IRQ = 1
export const CS_SEV = 2

/** CMD_SYNC as Linux issues it where there are no MSIs. */
export const SYNC = command('SYNC', { cs: CS_SEV })
export const CFGI_ALL = command('CFGI_STE_RANGE', { range: 31 })
export const TLBI_NSNH_ALL = command('TLBI_NSNH_ALL')
/** CFGI_STE with Leaf = 1. */
export const cfgiSte = (sid: number): number[] => command('CFGI_STE', { sid, leaf: 1 })
/** TLBI_NH_VA of one page for all levels. */
export const tlbiNhVa = (address: number | bigint, fields: CommandFields = {}): number[] =>
  command('TLBI_NH_VA', { address, ...fields })

/** Values of STE.Config. */
export const CONFIG = { abort: 0, bypass: 4, s1: 5, s2: 6, nested: 7 } as const

/** STRTAB_BASE_CFG (IHI 0070 section 6.3.25) of a linear table. */
export const linearCfg = (log2size: number): number => log2size
/** STRTAB_BASE_CFG of a 2-level table. */
export const twoLevelCfg = (log2size: number, split = 8): number => (1 << 16) | (split << 6) | log2size
