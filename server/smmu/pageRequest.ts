// SPDX-License-Identifier: Apache-2.0
/**
 * Entries of the PRI queue (IHI 0070 chapter 8): 16 bytes, little-endian, handled as four 32-bit words of a `Uint32Array`. Field
 * positions are those of the specification's figure, bits 127 to 0; names are Linux's.
 */
import { field, getField, hex, hex64, setField } from './bits.ts'
import { NO_SSID } from './transaction.ts'

/** Words of an entry. */
export const PRIQ_ENT_WORDS = 4

export const PRIQ_0_SID = field(31, 0)
export const PRIQ_0_SSID = field(51, 32)
export const PRIQ_0_PERM_PRIV = field(58)
export const PRIQ_0_PERM_EXEC = field(59)
export const PRIQ_0_PERM_READ = field(60)
export const PRIQ_0_PERM_WRITE = field(61)
export const PRIQ_0_PRG_LAST = field(62)
export const PRIQ_0_SSID_V = field(63)
export const PRIQ_1_PRG_IDX = field(72, 64)

/** A PRI page request, or a Stop Marker. */
export interface PageRequest {
  sid: number
  /** NO_SSID: without a PASID. */
  ssid: number
  /** Page address, bits [63:12], in unsigned halves; the rest of `lo` does not count. */
  lo: number
  hi: number
  /** 9 bits. */
  prgIndex: number
  /** The last request of its group. */
  last: boolean
  read: boolean
  write: boolean
  /** Only with a PASID. */
  execute: boolean
  privileged: boolean
}

/** A Stop PASID marker: Last, Write, Read are 0b100, and there is a PASID. */
export function isStopMarker(request: PageRequest): boolean {
  return request.ssid !== NO_SSID && request.last && !request.write && !request.read
}

/** Writes the entry into four words from `base` on. */
export function encodePageRequest(request: PageRequest, words: Uint32Array, base = 0): void {
  const pasid = request.ssid !== NO_SSID
  words.fill(0, base, base + PRIQ_ENT_WORDS)
  setField(words, PRIQ_0_SID, request.sid, base)
  if (pasid) {
    setField(words, PRIQ_0_SSID_V, 1, base)
    setField(words, PRIQ_0_SSID, request.ssid, base)
    setField(words, PRIQ_0_PERM_PRIV, request.privileged ? 1 : 0, base)
    setField(words, PRIQ_0_PERM_EXEC, request.execute ? 1 : 0, base)
  }
  setField(words, PRIQ_0_PERM_READ, request.read ? 1 : 0, base)
  setField(words, PRIQ_0_PERM_WRITE, request.write ? 1 : 0, base)
  setField(words, PRIQ_0_PRG_LAST, request.last ? 1 : 0, base)
  words[base + 2] = request.lo & 0xffff_f000
  setField(words, PRIQ_1_PRG_IDX, request.prgIndex, base)
  words[base + 3] = request.hi
}

/** Reads four words from `base` on. */
export function decodePageRequest(words: Uint32Array, base = 0): PageRequest {
  const pasid = getField(words, PRIQ_0_SSID_V, base) === 1
  return {
    sid: getField(words, PRIQ_0_SID, base),
    ssid: pasid ? getField(words, PRIQ_0_SSID, base) : NO_SSID,
    lo: (words[base + 2] & 0xffff_f000) >>> 0,
    hi: words[base + 3],
    prgIndex: getField(words, PRIQ_1_PRG_IDX, base),
    last: getField(words, PRIQ_0_PRG_LAST, base) === 1,
    read: getField(words, PRIQ_0_PERM_READ, base) === 1,
    write: getField(words, PRIQ_0_PERM_WRITE, base) === 1,
    execute: pasid && getField(words, PRIQ_0_PERM_EXEC, base) === 1,
    privileged: pasid && getField(words, PRIQ_0_PERM_PRIV, base) === 1,
  }
}

/** A request in one line, for example `page request sid=0x8 group=3 read write last page=0xffff0000`. */
export function describePageRequest(request: PageRequest): string {
  const out = [isStopMarker(request) ? 'stop marker' : 'page request', `sid=${hex(request.sid)}`]
  if (request.ssid !== NO_SSID) out.push(`ssid=${hex(request.ssid)}`)
  out.push(`group=${request.prgIndex}`)
  for (const flag of ['read', 'write', 'execute', 'privileged', 'last'] as const) if (request[flag]) out.push(flag)
  out.push(`page=${hex64((request.lo & 0xffff_f000) >>> 0, request.hi)}`)
  return out.join(' ')
}
