// SPDX-License-Identifier: Apache-2.0
/**
 * A second, slow reading of IHI 0070 and DDI 0487 to hold against the walker: 64-bit arithmetic throughout, one bit string, no
 * shared constants, the pseudocode's order. Linear stream table, one CD, the feature set of QEMU's `stage=nested` (44-bit OAS).
 */
import type { GuestMemory } from '../../../server/smmu/memory.ts'

const OAS = 44n
const PS_BITS = [32n, 36n, 40n, 42n, 44n, 48n, 52n, 52n]

export interface Access {
  sid: number
  address: bigint
  write: boolean
  privileged: boolean
  instruction: boolean
}

/** `pa=.. shift=.. perms`, `abort`, or the fields of the event, in one string. */
export function reference(memory: GuestMemory, strtab: bigint, log2size: number, access: Access): string {
  const mask = (bits: bigint) => (1n << bits) - 1n
  const bits = (value: bigint, hi: number, lo: number) => (value >> BigInt(lo)) & mask(BigInt(hi - lo + 1))
  const read = (address: bigint, bytes: number): bigint | undefined => {
    const buffer = new Uint8Array(bytes)
    if (address > 2n ** 52n || !memory.read(Number(address), buffer, 0, bytes)) return undefined
    return buffer.reduceRight((value, byte) => (value << 8n) | BigInt(byte), 0n)
  }
  const instruction = access.instruction && !access.write

  class Fault extends Error {}
  const config = (name: string, fetch?: bigint) =>
    new Fault(fetch === undefined ? name : `${name} fetch=${fetch.toString(16)}`)
  const fault = (name: string, s2: boolean, cls: string, ipa: bigint | undefined, record: boolean) =>
    new Fault(
      `${name} ${s2 ? 'S2' : 'S1'} ${cls}${ipa === undefined ? '' : ` ipa=${((ipa >> 12n) << 12n).toString(16)}`}${record ? '' : ' silent'}`,
    )
  const eabt = (s2: boolean, cls: string, fetch: bigint) =>
    new Fault(`F_WALK_EABT ${s2 ? 'S2' : 'S1'} ${cls} fetch=${fetch.toString(16)}`)

  const tgBits = (tg: bigint, one: boolean): bigint | undefined =>
    one ? [undefined, 14n, 12n, 16n][Number(tg)] : [12n, 16n, 14n, undefined][Number(tg)]

  interface Tables {
    base: bigint
    iasize: bigint
    granule: bigint
    start: bigint
    ps: bigint
  }
  interface Leaf {
    oa: bigint
    size: bigint
    descriptor: bigint
    apTable: bigint
    xnTable: bigint
    pxnTable: bigint
  }

  /** One stage of table walk; `fetch` gives the PA of a descriptor, `bad` makes the faults. */
  const walk = (
    t: Tables,
    input: bigint,
    fetch: (address: bigint) => bigint,
    bad: (name: 'F_TRANSLATION' | 'F_ADDR_SIZE' | 'F_WALK_EABT', pa: bigint) => Fault,
  ): Leaf => {
    const stride = t.granule - 3n
    let base = t.base
    let apTable = 0n
    let xnTable = 0n
    let pxnTable = 0n
    let top = t.iasize - 1n
    for (let level = t.start; ; level++) {
      const low = t.granule + (3n - level) * stride
      const index = bits(input, Number(top), Number(low))
      top = low - 1n
      const pa = fetch(base + index * 8n)
      const d = read(pa, 8)
      if (d === undefined) throw bad('F_WALK_EABT', pa)
      if ((d & 1n) === 0n) throw bad('F_TRANSLATION', pa)
      const blockAllowed = t.granule === 12n ? level === 1n || level === 2n : level === 2n
      if (level === 3n ? (d & 2n) === 0n : (d & 2n) === 0n && !blockAllowed) throw bad('F_TRANSLATION', pa)
      const table = level < 3n && (d & 2n) !== 0n
      const oa = (bits(d, 47, 0) >> (table ? t.granule : low)) << (table ? t.granule : low)
      if (oa >> t.ps !== 0n) throw bad('F_ADDR_SIZE', pa)
      if (!table) return { oa, size: low, descriptor: d, apTable, xnTable, pxnTable }
      base = oa
      apTable |= bits(d, 62, 61)
      xnTable |= bits(d, 60, 60)
      pxnTable |= bits(d, 59, 59)
    }
  }

  try {
    if (access.sid >= 2 ** log2size) throw config('C_BAD_STREAMID')
    const steAddress = strtab + BigInt(access.sid) * 64n
    const ste = read(steAddress, 64)
    if (ste === undefined) throw config('F_STE_FETCH', steAddress)
    const s = (hi: number, lo = hi) => bits(ste, hi, lo)
    if (!s(0)) throw config('C_BAD_STE')
    const cfg = s(3, 1)
    if (cfg < 4n) return 'abort'
    const one = (cfg & 1n) === 1n
    const two = (cfg & 2n) === 2n

    const s2record = s(186) === 1n
    let s2: Tables | undefined
    if (one && s(91)) throw config('C_BAD_STE')
    if (one && !two && (s(55, 6) << 6n) >> OAS) throw config('C_BAD_STE')
    if (two) {
      const granule = tgBits(s(175, 174), false)
      const ps = PS_BITS[Number(s(178, 176))] < OAS ? PS_BITS[Number(s(178, 176))] : OAS
      const base = s(243, 196) << 4n
      const t0sz = s(165, 160)
      const sl0 = s(167, 166)
      if (!s(179) || s(183) || s(184) || s(185) || s(180) || granule === undefined || base >> ps)
        throw config('C_BAD_STE')
      if (t0sz < 20n || t0sz > 39n || sl0 === 3n) throw config('C_BAD_STE')
      const start = granule === 12n ? 2n - sl0 : 3n - sl0
      const iasize = 64n - t0sz
      const minimum = (3n - start) * (granule - 3n) + granule + 1n
      if (iasize < minimum || iasize > minimum + granule - 4n + 4n) throw config('C_BAD_STE')
      const size = iasize - (minimum - 1n) + 3n
      s2 = { base: (base >> size) << size, iasize, granule, start, ps }
    }

    const stage2 = (ipa: bigint, cls: string): Leaf => {
      if (!s2) throw new Error('no stage 2')
      if (ipa >> s2.iasize) throw fault('F_TRANSLATION', true, cls, ipa, s2record)
      const leaf = walk(
        s2,
        ipa,
        address => address,
        (name, pa) => (name === 'F_WALK_EABT' ? eabt(true, cls, pa) : fault(name, true, cls, ipa, s2record)),
      )
      if (!bits(leaf.descriptor, 10, 10) && !s(181)) throw fault('F_ACCESS', true, cls, ipa, s2record)
      return leaf
    }
    const s2perm = (leaf: Leaf) => {
      const xn = bits(leaf.descriptor, 54, 53)
      return {
        r: bits(leaf.descriptor, 6, 6) === 1n,
        w: bits(leaf.descriptor, 7, 7) === 1n,
        x: access.privileged ? xn === 0n || xn === 3n : xn === 0n || xn === 1n,
      }
    }
    const own = (ipa: bigint, cls: string): bigint => {
      if (!two) return ipa
      const leaf = stage2(ipa, cls)
      const device = bits(leaf.descriptor, 5, 4) === 0n
      if (!s2perm(leaf).r || (s(182) && device)) throw fault('F_PERMISSION', true, cls, ipa, s2record)
      return leaf.oa | (ipa & mask(leaf.size))
    }

    let ipa = access.address
    let size = 64n
    let perm = { r: true, w: true, x: true }
    const need = instruction ? 'x' : access.write ? 'w' : 'r'
    if (!one) {
      if (ipa >> OAS) throw fault('F_ADDR_SIZE', false, 'IN', undefined, true)
      if (!two) return `bypass pa=${ipa.toString(16)}`
    } else {
      const cdAddress = own(s(55, 6) << 6n, 'CD')
      const cd = read(cdAddress, 64)
      if (cd === undefined) throw config('F_CD_FETCH', cdAddress)
      const c = (hi: number, lo = hi) => bits(cd, hi, lo)
      const ips = PS_BITS[Number(c(34, 32))] < OAS ? PS_BITS[Number(c(34, 32))] : OAS
      const record = c(45) === 1n
      let illegal = !c(31) || !c(46) || c(44) || !c(41) || c(42) || c(43) || ((!c(14) || !c(30)) && c(15))
      const tables = [0, 1].map(n => {
        const granule = tgBits(n ? c(23, 22) : c(7, 6), n === 1)
        const tsz = n ? c(21, 16) : c(5, 0)
        const base = (n ? c(179, 132) : c(115, 68)) << 4n
        const disabled = (n ? c(30) : c(14)) === 1n
        if (!disabled && (granule === undefined || tsz < 16n || tsz > 39n || base >> ips)) illegal = 1n
        if (disabled || granule === undefined) return undefined
        const iasize = 64n - tsz
        let start = 3n
        while ((3n - start + 1n) * (granule - 3n) + granule < iasize) start--
        const size = iasize - ((3n - start) * (granule - 3n) + granule) + 3n
        return { base: (base >> size) << size, iasize, granule, start, ps: ips, had: (n ? c(129) : c(65)) === 1n }
      })
      if (illegal) throw config('C_BAD_CD')
      const va = access.address
      const upper = bits(va, 55, 55) === 1n
      const t = tables[upper ? 1 : 0]
      const tbi = (upper ? c(39) : c(38)) === 1n
      if (!t) throw fault('F_TRANSLATION', false, 'IN', undefined, record)
      const high = bits(va, tbi ? 55 : 63, Number(t.iasize))
      const width = (tbi ? 56n : 64n) - t.iasize
      if (high !== (upper ? mask(width) : 0n)) throw fault('F_TRANSLATION', false, 'IN', undefined, record)
      const leaf = walk(
        t,
        va & mask(t.iasize),
        address => own(address, 'TT'),
        (name, pa) => (name === 'F_WALK_EABT' ? eabt(false, 'TT', pa) : fault(name, false, 'IN', undefined, record)),
      )
      const d = leaf.descriptor
      if (!bits(d, 10, 10) && !c(35)) throw fault('F_ACCESS', false, 'IN', undefined, record)
      const hierarchical = t.had ? { apTable: 0n, xnTable: 0n, pxnTable: 0n } : leaf
      const el0 = bits(d, 6, 6) === 1n && (hierarchical.apTable & 1n) === 0n
      const ro = bits(d, 7, 7) === 1n || (hierarchical.apTable & 2n) !== 0n
      const [ur, uw, pr, pw] = [el0, el0 && !ro, true, !ro]
      const wxn = c(36) === 1n
      const ux = !bits(d, 54, 54) && !hierarchical.xnTable && !(wxn && uw)
      const px = !bits(d, 53, 53) && !hierarchical.pxnTable && !uw && !(wxn && pw)
      const pan = c(40) === 1n && ur
      perm = access.privileged ? { r: pr && !pan, w: pw && !pan, x: px } : { r: ur, w: uw, x: ux }
      if (!perm[need]) throw fault('F_PERMISSION', false, 'IN', undefined, record)
      ipa = leaf.oa | (va & mask(leaf.size))
      size = leaf.size
    }
    if (two) {
      const leaf = stage2(ipa, 'IN')
      const p = s2perm(leaf)
      if (!p[need]) throw fault('F_PERMISSION', true, 'IN', ipa, s2record)
      perm = { r: perm.r && p.r, w: perm.w && p.w, x: perm.x && p.x }
      ipa = leaf.oa | (ipa & mask(leaf.size))
      size = leaf.size < size ? leaf.size : size
    }
    return `pa=${ipa.toString(16)} shift=${size} ${perm.r ? 'r' : ''}${perm.w ? 'w' : ''}${perm.x ? 'x' : ''}`
  } catch (error) {
    if (error instanceof Fault) return error.message
    throw error
  }
}
