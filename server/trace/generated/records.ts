// SPDX-License-Identifier: Apache-2.0
/** Generated from ../records.ts by ../generate.ts; do not edit. */
import type { KindName, RecordOf } from '../records.ts'

/** What a record `trap` takes from one object. */
export interface RecordedTrap {
  readonly seq: number
  readonly time: number
  readonly smmu: number
  readonly cpu: number
  readonly write: boolean
  readonly offset: number
  readonly size: number
  readonly lo: number
  readonly hi: number
  readonly aborted: boolean
  readonly pcLo: number
  readonly pcHi: number
}

/** What a record `translate` takes from one object. */
export interface RecordedTranslateRequest {
  readonly smmu: number
  readonly sid: number
  readonly ssid: number
  readonly access: number
  readonly iovaLo: number
  readonly iovaHi: number
  readonly time: number
}

/** What a record `translate` takes from one object. */
export interface RecordedTranslateAnswer {
  readonly status: number
  readonly permissions: number
  readonly pa: number
  readonly addressMask: number
}

/** Writes records into the ring, field by field. */
export abstract class RecordWriter {
  protected abstract readonly words: Uint32Array
  protected abstract readonly doubles: Float64Array
  /** What `encode` made. */
  protected abstract readonly encoded: Uint8Array

  /** Finds room for a record of `words` words, an even number, and writes its header. @returns its index, -1: no room */
  protected abstract reserve(kind: number, words: number): number
  /** Hands over the record that was written since. */
  protected abstract publish(words: number): void
  /** The same with a record that closes the group of those before it. */
  protected abstract close(words: number): void
  /** Copies bytes to byte `to` of the ring. */
  protected abstract copy(to: number, source: Uint8Array, from: number, count: number): void
  /** Turns text into UTF-8. @returns its length, bytes */
  protected abstract encode(text: string): number

  trap(trap: RecordedTrap, start: number, duration: number, lastTrapNs: number, released: number): void {
    const at = this.reserve(1, 20)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = trap.seq
    doubles[(at + 2) >> 1] = trap.time
    doubles[(at + 4) >> 1] = start
    doubles[(at + 6) >> 1] = duration
    words[at + 8] = trap.smmu
    words[at + 9] = trap.cpu
    words[at + 10] = trap.write ? 1 : 0
    words[at + 11] = trap.offset
    words[at + 12] = trap.size
    words[at + 13] = trap.lo
    words[at + 14] = trap.hi
    words[at + 15] = trap.aborted ? 1 : 0
    words[at + 16] = trap.pcLo
    words[at + 17] = trap.pcHi
    words[at + 18] = lastTrapNs
    words[at + 19] = released
    this.close(20)
  }

  hardware(
    smmu: number,
    write: boolean,
    start: number,
    duration: number,
    offset: number,
    size: number,
    lo: number,
    hi: number,
    ok: boolean,
  ): void {
    const at = this.reserve(2, 12)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = smmu
    words[at + 2] = write ? 1 : 0
    doubles[(at + 4) >> 1] = start
    words[at + 6] = duration
    words[at + 7] = offset
    words[at + 8] = size
    words[at + 9] = lo
    words[at + 10] = hi
    words[at + 11] = ok ? 1 : 0
    this.publish(12)
  }

  memory(
    write: boolean,
    address: number,
    length: number,
    done: number,
    digest: number,
    ok: boolean,
    bytes: Uint8Array,
    from: number,
    count: number,
  ): void {
    const used = (10 + ((count + 3) >> 2)) & ~1
    const at = this.reserve(3, used)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = write ? 1 : 0
    doubles[(at + 2) >> 1] = address
    words[at + 4] = length
    words[at + 5] = done
    words[at + 6] = digest
    words[at + 7] = ok ? 1 : 0
    words[at + 8] = count
    this.copy((at + 9) << 2, bytes, from, count)
    this.publish(used)
  }

  guard(add: boolean, base: number, size: number): void {
    const at = this.reserve(4, 6)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = add ? 1 : 0
    doubles[(at + 2) >> 1] = base
    doubles[(at + 4) >> 1] = size
    this.publish(6)
  }

  command(smmu: number, opcode: number, verdict: number): void {
    const at = this.reserve(5, 4)
    if (at < 0) return
    const { words } = this
    words[at + 1] = smmu
    words[at + 2] = opcode
    words[at + 3] = verdict
    this.publish(4)
  }

  stream(smmu: number, sid: number, hostConfig: number, shadowConfig: number): void {
    const at = this.reserve(6, 6)
    if (at < 0) return
    const { words } = this
    words[at + 1] = smmu
    words[at + 2] = sid
    words[at + 3] = hostConfig
    words[at + 4] = shadowConfig
    this.publish(6)
  }

  event(smmu: number, time: number, bytes: Uint8Array, from: number, count: number): void {
    const used = (6 + ((count + 3) >> 2)) & ~1
    const at = this.reserve(7, used)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = smmu
    doubles[(at + 2) >> 1] = time
    words[at + 4] = count
    this.copy((at + 5) << 2, bytes, from, count)
    this.publish(used)
  }

  gerror(smmu: number, time: number, gerror: number, gerrorn: number): void {
    const at = this.reserve(8, 6)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = smmu
    doubles[(at + 2) >> 1] = time
    words[at + 4] = gerror
    words[at + 5] = gerrorn
    this.publish(6)
  }

  guardFault(
    cpu: number,
    address: number,
    size: number,
    write: boolean,
    time: number,
    pcLo: number,
    pcHi: number,
  ): void {
    const at = this.reserve(9, 10)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = cpu
    doubles[(at + 2) >> 1] = address
    words[at + 4] = size
    words[at + 5] = write ? 1 : 0
    doubles[(at + 6) >> 1] = time
    words[at + 8] = pcLo
    words[at + 9] = pcHi
    this.publish(10)
  }

  warning(id: number, smmu: number, v0: number, v1: number, v2: number, v3: number): void {
    const at = this.reserve(10, 8)
    if (at < 0) return
    const { words } = this
    words[at + 1] = id
    words[at + 2] = smmu
    words[at + 3] = v0
    words[at + 4] = v1
    words[at + 5] = v2
    words[at + 6] = v3
    this.publish(8)
  }

  reset(cause: number, time: number, start: number, duration: number): void {
    const at = this.reserve(11, 8)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = cause
    doubles[(at + 2) >> 1] = time
    doubles[(at + 4) >> 1] = start
    doubles[(at + 6) >> 1] = duration
    this.close(8)
  }

  pages(operation: number, base: number, size: number, owner: number, result: number): void {
    const at = this.reserve(12, 8)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = operation
    doubles[(at + 2) >> 1] = base
    doubles[(at + 4) >> 1] = size
    words[at + 6] = owner
    words[at + 7] = result
    this.publish(8)
  }

  breakpoint(id: number, seq: number, start: number, decided: boolean): void {
    const at = this.reserve(13, 8)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = id
    words[at + 2] = seq
    doubles[(at + 4) >> 1] = start
    words[at + 6] = decided ? 1 : 0
    this.publish(8)
  }

  fault(rule: number, action: number, v0: number, v1: number, v2: number, v3: number): void {
    const at = this.reserve(14, 12)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = rule
    words[at + 2] = action
    doubles[(at + 4) >> 1] = v0
    doubles[(at + 6) >> 1] = v1
    doubles[(at + 8) >> 1] = v2
    doubles[(at + 10) >> 1] = v3
    this.publish(12)
  }

  lost(count: number): void {
    const at = this.reserve(16, 4)
    if (at < 0) return
    const { doubles } = this
    doubles[(at + 2) >> 1] = count
    this.publish(4)
  }

  translate(
    request: RecordedTranslateRequest,
    start: number,
    duration: number,
    answer: RecordedTranslateAnswer,
    bytes: Uint8Array,
    from: number,
    count: number,
  ): void {
    const used = (22 + ((count + 3) >> 2)) & ~1
    const at = this.reserve(17, used)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = request.smmu
    words[at + 2] = request.sid
    words[at + 3] = request.ssid
    words[at + 4] = request.access
    words[at + 5] = request.iovaLo
    words[at + 6] = request.iovaHi
    doubles[(at + 8) >> 1] = request.time
    doubles[(at + 10) >> 1] = start
    doubles[(at + 12) >> 1] = duration
    words[at + 14] = answer.status
    words[at + 15] = answer.permissions
    doubles[(at + 16) >> 1] = answer.pa
    doubles[(at + 18) >> 1] = answer.addressMask
    words[at + 20] = count
    this.copy((at + 21) << 2, bytes, from, count)
    this.close(used)
  }

  request(
    request: number,
    result: number,
    start: number,
    duration: number,
    v0: number,
    v1: number,
    v2: number,
    v3: number,
  ): void {
    const at = this.reserve(20, 16)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = request
    words[at + 2] = result
    doubles[(at + 4) >> 1] = start
    doubles[(at + 6) >> 1] = duration
    doubles[(at + 8) >> 1] = v0
    doubles[(at + 10) >> 1] = v1
    doubles[(at + 12) >> 1] = v2
    doubles[(at + 14) >> 1] = v3
    this.close(16)
  }

  probe(smmu: number, text: string): void {
    const count = this.encode(text)
    const used = (4 + ((count + 3) >> 2)) & ~1
    const at = this.reserve(21, used)
    if (at < 0) return
    const { words } = this
    words[at + 1] = smmu
    words[at + 2] = count
    this.copy((at + 3) << 2, this.encoded, 0, count)
    this.publish(used)
  }

  stage2(
    cpu: number,
    time: number,
    all: boolean,
    vttbrLo: number,
    vttbrHi: number,
    vtcrLo: number,
    vtcrHi: number,
    bytes: Uint8Array,
    from: number,
    count: number,
  ): void {
    const used = (11 + ((count + 3) >> 2)) & ~1
    const at = this.reserve(22, used)
    if (at < 0) return
    const { words, doubles } = this
    words[at + 1] = cpu
    doubles[(at + 2) >> 1] = time
    words[at + 4] = all ? 1 : 0
    words[at + 5] = vttbrLo
    words[at + 6] = vttbrHi
    words[at + 7] = vtcrLo
    words[at + 8] = vtcrHi
    words[at + 9] = count
    this.copy((at + 10) << 2, bytes, from, count)
    this.publish(used)
  }

  stack(cpu: number, bytes: Uint8Array, from: number, count: number): void {
    const used = (4 + ((count + 3) >> 2)) & ~1
    const at = this.reserve(23, used)
    if (at < 0) return
    const { words } = this
    words[at + 1] = cpu
    words[at + 2] = count
    this.copy((at + 3) << 2, bytes, from, count)
    this.publish(used)
  }
}

/** A record with these values for its fields, in order. */
export const makers: { readonly [K in KindName]: (v: readonly unknown[]) => RecordOf<K> } = {
  trap: v => ({
    kind: 'trap',
    seq: v[0] as number,
    time: v[1] as number,
    start: v[2] as number,
    duration: v[3] as number,
    smmu: v[4] as number,
    cpu: v[5] as number,
    write: v[6] as number,
    offset: v[7] as number,
    size: v[8] as number,
    lo: v[9] as number,
    hi: v[10] as number,
    aborted: v[11] as number,
    pcLo: v[12] as number,
    pcHi: v[13] as number,
    lastTrapNs: v[14] as number,
    released: v[15] as number,
  }),
  hardware: v => ({
    kind: 'hardware',
    smmu: v[0] as number,
    write: v[1] as number,
    start: v[2] as number,
    duration: v[3] as number,
    offset: v[4] as number,
    size: v[5] as number,
    lo: v[6] as number,
    hi: v[7] as number,
    ok: v[8] as number,
  }),
  memory: v => ({
    kind: 'memory',
    write: v[0] as number,
    address: v[1] as number,
    length: v[2] as number,
    done: v[3] as number,
    digest: v[4] as number,
    ok: v[5] as number,
    bytes: v[6] as Uint8Array,
  }),
  guard: v => ({ kind: 'guard', add: v[0] as number, base: v[1] as number, size: v[2] as number }),
  command: v => ({ kind: 'command', smmu: v[0] as number, opcode: v[1] as number, verdict: v[2] as number }),
  stream: v => ({
    kind: 'stream',
    smmu: v[0] as number,
    sid: v[1] as number,
    hostConfig: v[2] as number,
    shadowConfig: v[3] as number,
  }),
  event: v => ({ kind: 'event', smmu: v[0] as number, time: v[1] as number, bytes: v[2] as Uint8Array }),
  gerror: v => ({
    kind: 'gerror',
    smmu: v[0] as number,
    time: v[1] as number,
    gerror: v[2] as number,
    gerrorn: v[3] as number,
  }),
  guardFault: v => ({
    kind: 'guardFault',
    cpu: v[0] as number,
    address: v[1] as number,
    size: v[2] as number,
    write: v[3] as number,
    time: v[4] as number,
    pcLo: v[5] as number,
    pcHi: v[6] as number,
  }),
  warning: v => ({
    kind: 'warning',
    id: v[0] as number,
    smmu: v[1] as number,
    v0: v[2] as number,
    v1: v[3] as number,
    v2: v[4] as number,
    v3: v[5] as number,
  }),
  reset: v => ({
    kind: 'reset',
    cause: v[0] as number,
    time: v[1] as number,
    start: v[2] as number,
    duration: v[3] as number,
  }),
  pages: v => ({
    kind: 'pages',
    operation: v[0] as number,
    base: v[1] as number,
    size: v[2] as number,
    owner: v[3] as number,
    result: v[4] as number,
  }),
  breakpoint: v => ({
    kind: 'breakpoint',
    id: v[0] as number,
    seq: v[1] as number,
    start: v[2] as number,
    decided: v[3] as number,
  }),
  fault: v => ({
    kind: 'fault',
    rule: v[0] as number,
    action: v[1] as number,
    v0: v[2] as number,
    v1: v[3] as number,
    v2: v[4] as number,
    v3: v[5] as number,
  }),
  machine: v => ({ kind: 'machine', state: v[0] as number, time: v[1] as number, start: v[2] as number }),
  lost: v => ({ kind: 'lost', count: v[0] as number }),
  translate: v => ({
    kind: 'translate',
    smmu: v[0] as number,
    sid: v[1] as number,
    ssid: v[2] as number,
    access: v[3] as number,
    iovaLo: v[4] as number,
    iovaHi: v[5] as number,
    time: v[6] as number,
    start: v[7] as number,
    duration: v[8] as number,
    status: v[9] as number,
    permissions: v[10] as number,
    pa: v[11] as number,
    addressMask: v[12] as number,
    bytes: v[13] as Uint8Array,
  }),
  console: v => ({ kind: 'console', start: v[0] as number, text: v[1] as string }),
  control: v => ({ kind: 'control', start: v[0] as number, text: v[1] as string }),
  request: v => ({
    kind: 'request',
    request: v[0] as number,
    result: v[1] as number,
    start: v[2] as number,
    duration: v[3] as number,
    v0: v[4] as number,
    v1: v[5] as number,
    v2: v[6] as number,
    v3: v[7] as number,
  }),
  probe: v => ({ kind: 'probe', smmu: v[0] as number, text: v[1] as string }),
  stage2: v => ({
    kind: 'stage2',
    cpu: v[0] as number,
    time: v[1] as number,
    all: v[2] as number,
    vttbrLo: v[3] as number,
    vttbrHi: v[4] as number,
    vtcrLo: v[5] as number,
    vtcrHi: v[6] as number,
    bytes: v[7] as Uint8Array,
  }),
  stack: v => ({ kind: 'stack', cpu: v[0] as number, bytes: v[1] as Uint8Array }),
}
