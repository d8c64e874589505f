// SPDX-License-Identifier: Apache-2.0
/**
 * The records of a trace: the one description that the ring's writer is generated from (`npm run generate`), and that the
 * ring's readers, the file format, the filters and the exporters go by.
 *
 * A record is one line of the time line. The records `hardware`, `memory`, `guard`, `command`, `stream`, `warning`,
 * `pages`, `probe`, `fault`, `stack` and `breakpoint` belong to the *root* that closes their group: the next `trap`, `reset`,
 * `translate` or `request` after them.
 *
 * Times: `time` is QEMU's virtual clock in ns; `start` is the server's monotonic clock in ns since the ring was created;
 * `duration` is ns of the server's clock.
 */
import { COMMAND_DROPPED, COMMAND_KEPT, COMMAND_REWRITTEN } from '../policy/report.ts'

/**
 * `u32` unsigned; `flag` 0 or 1, which the writer takes as a boolean; `f64` an integer up to 2^53 (addresses, times); `bytes`
 * and `text` (UTF-8) only as the last field.
 */
export type FieldType = 'u32' | 'flag' | 'f64' | 'bytes' | 'text'

type Fields = Readonly<Record<string, FieldType>>

/** Number of a kind in ring and file (never reused), and its fields in order. */
export interface Kind {
  readonly id: number
  readonly fields: Fields
  /** Fields that the writer takes from one object, which has them under the same names; by the parameter's name. */
  readonly from?: Readonly<Record<string, readonly string[]>>
}

export const kinds = {
  /**
   * Root. An access of a vCPU and its outcome. `lastTrapNs`: round trip of the trap before, as QEMU measured it. `duration` 0:
   * QEMU gave the answer by itself, as predicted with the trap before. `released`: a value of `released`.
   */
  trap: {
    id: 1,
    fields: {
      seq: 'u32',
      time: 'f64',
      start: 'f64',
      duration: 'f64',
      smmu: 'u32',
      cpu: 'u32',
      write: 'flag',
      offset: 'u32',
      size: 'u32',
      lo: 'u32',
      hi: 'u32',
      aborted: 'flag',
      pcLo: 'u32',
      pcHi: 'u32',
      lastTrapNs: 'u32',
      released: 'u32',
    },
    from: {
      trap: ['seq', 'time', 'smmu', 'cpu', 'write', 'offset', 'size', 'lo', 'hi', 'aborted', 'pcLo', 'pcHi'],
    },
  },
  /** The hypervisor accessed a register of the hardware. `ok` 0: the hardware refused. */
  hardware: {
    id: 2,
    fields: {
      smmu: 'u32',
      write: 'flag',
      start: 'f64',
      duration: 'u32',
      offset: 'u32',
      size: 'u32',
      lo: 'u32',
      hi: 'u32',
      ok: 'flag',
    },
  },
  /**
   * The hypervisor accessed guest memory. `length` is that of the whole access, bytes. A long read is several records:
   * `done` bytes of it came before `bytes`. Of a long write `bytes` is empty, and `digest` says what was written: CRC-32, 0
   * for all zeros. `ok` 0: not RAM, nothing moved.
   */
  memory: {
    id: 3,
    fields: { write: 'flag', address: 'f64', length: 'u32', done: 'u32', digest: 'u32', ok: 'flag', bytes: 'bytes' },
  },
  /** CPU guard changed; `add` 0: removed. */
  guard: { id: 4, fields: { add: 'flag', base: 'f64', size: 'f64' } },
  /** A command of the host's queue was filtered, or the hypervisor issued one. Its words are in the group's memory. */
  command: { id: 5, fields: { smmu: 'u32', opcode: 'u32', verdict: 'u32' } },
  /** A stream table entry was shadowed: Config fields, 0xffffffff when not valid. The entries are in the group's memory. */
  stream: { id: 6, fields: { smmu: 'u32', sid: 'u32', hostConfig: 'u32', shadowConfig: 'u32' } },
  /** The hardware recorded an event; `bytes` is the record (32 bytes). */
  event: { id: 7, fields: { smmu: 'u32', time: 'f64', bytes: 'bytes' } },
  /** The hardware toggled GERROR. */
  gerror: { id: 8, fields: { smmu: 'u32', time: 'f64', gerror: 'u32', gerrorn: 'u32' } },
  /** A vCPU touched guarded memory. */
  guardFault: {
    id: 9,
    fields: { cpu: 'u32', address: 'f64', size: 'u32', write: 'flag', time: 'f64', pcLo: 'u32', pcHi: 'u32' },
  },
  /** Hyp warning: its id in the catalogue (hypervisor/warnings.ts) and its values. */
  warning: { id: 10, fields: { id: 'u32', smmu: 'u32', v0: 'u32', v1: 'u32', v2: 'u32', v3: 'u32' } },
  /** Root. The machine was reset; `cause` is a value of the protocol's `resetCause`. */
  reset: { id: 11, fields: { cause: 'u32', time: 'f64', start: 'f64', duration: 'f64' } },
  /** Pages changed hands: `operation` and `result` as in HypReport.pages, `owner` the VM's id. */
  pages: {
    id: 12,
    fields: { operation: 'u32', base: 'f64', size: 'f64', owner: 'u32', result: 'u32' },
  },
  /**
   * A breakpoint stopped the trap with this sequence number; `decided`: after the policy decided it. What was done for the
   * trap so far stands before; until its root comes, requests may.
   */
  breakpoint: { id: 13, fields: { id: 'u32', seq: 'u32', start: 'f64', decided: 'flag' } },
  /** A rule injected a fault: number of the rule, of the action (FAULT_ACTIONS), and values. */
  fault: { id: 14, fields: { rule: 'u32', action: 'u32', v0: 'f64', v1: 'f64', v2: 'f64', v3: 'f64' } },
  /** The machine's state changed: a value of `machineState`. From the control thread; `time` is not known there, and 0. */
  machine: { id: 15, fields: { state: 'u32', time: 'f64', start: 'f64' } },
  /** So many records are missing here, because the ring was full or the disk refused. */
  lost: { id: 16, fields: { count: 'f64' } },
  /** Root. A translation asked for by the hardware model; `bytes` is the event record of a fault (32 bytes). */
  translate: {
    id: 17,
    fields: {
      smmu: 'u32',
      sid: 'u32',
      ssid: 'u32',
      access: 'u32',
      iovaLo: 'u32',
      iovaHi: 'u32',
      time: 'f64',
      start: 'f64',
      duration: 'f64',
      status: 'u32',
      permissions: 'u32',
      pa: 'f64',
      addressMask: 'f64',
      bytes: 'bytes',
    },
    from: {
      request: ['smmu', 'sid', 'ssid', 'access', 'iovaLo', 'iovaHi', 'time'],
      answer: ['status', 'permissions', 'pa', 'addressMask'],
    },
  },
  /** A line of the guest's serial console, from the control thread. */
  console: { id: 18, fields: { start: 'f64', text: 'text' } },
  /** Something that the control thread did or noticed: JSON with a `what`. */
  control: { id: 19, fields: { start: 'f64', text: 'text' } },
  /** Root. The trap thread did what the control thread asked: a value of `request`, arguments, 0 or an error. */
  request: {
    id: 20,
    fields: {
      request: 'u32',
      result: 'u32',
      start: 'f64',
      duration: 'f64',
      v0: 'f64',
      v1: 'f64',
      v2: 'f64',
      v3: 'f64',
    },
  },
  /** The hypervisor probed an SMMU at reset; `text` is empty, or says why it can't isolate. */
  probe: { id: 21, fields: { smmu: 'u32', text: 'text' } },
  /** What EL2 told of its host's tables: the request `stage2Changed` that follows. `bytes`: addresses of pages, 8 bytes each. */
  stage2: {
    id: 22,
    fields: {
      cpu: 'u32',
      time: 'f64',
      all: 'flag',
      vttbrLo: 'u32',
      vttbrHi: 'u32',
      vtcrLo: 'u32',
      vtcrHi: 'u32',
      bytes: 'bytes',
    },
  },
  /** Who called the function that makes the trap of this group: return addresses, the innermost first, 8 bytes each. */
  stack: { id: 23, fields: { cpu: 'u32', bytes: 'bytes' } },
} as const satisfies Record<string, Kind>

export type KindName = keyof typeof kinds

type Value<T extends FieldType> = T extends 'bytes' ? Uint8Array : T extends 'text' ? string : number

/** One record, as the ring's consumer and the file's reader see it. */
export type RecordOf<K extends KindName> = { readonly kind: K } & {
  readonly [F in keyof (typeof kinds)[K]['fields']]: (typeof kinds)[K]['fields'][F] extends FieldType
    ? Value<(typeof kinds)[K]['fields'][F]>
    : never
}

export type TraceRecord = { [K in KindName]: RecordOf<K> }[KindName]

/** What became of a command of the host's queue; `own`: issued by the hypervisor itself. */
export const verdict = { kept: COMMAND_KEPT, rewritten: COMMAND_REWRITTEN, dropped: COMMAND_DROPPED, own: 3 } as const

/** What an injected fault did, by the number in the record; append only. */
export const FAULT_ACTIONS = [
  'set',
  'change',
  'freeze',
  'drop',
  'abort',
  'postpone',
  'delay',
  'duplicate',
  'reorder',
  'defer',
  'hang',
  'early',
  'cerror',
  'fail',
  'fault',
  'redirect',
  'restrict',
  'irq',
  'lose-irq',
  'gerror',
  'event',
  'corrupt',
  'donate',
  'reclaim',
  'warn',
  'disconnect',
  'malformed',
  'kill',
  'reset',
  'pause',
  'lose-state',
] as const

/**
 * `donate` and `reclaim`: base, size, VM. `resume`: a new server went on with the running machine. `postMismatch`: SMMU,
 * offset and value of a register that a posted write did not lead to. `stage2Changed`: VTTBR_EL2's halves, pages, and whether all
 * was told. `faultsOpened`: rules whose console line or moment came, as bits, rule 1 bit 0 of the first word and rule 33 of the
 * second, and the moment in ns or 0. `faultsArmed`: so many rules instead of those that were. `other`: nothing that changes the
 * hypervisor's state.
 */
export const request = {
  other: 0,
  donate: 1,
  reclaim: 2,
  resume: 3,
  postMismatch: 4,
  stage2Changed: 5,
  faultsOpened: 6,
  faultsArmed: 7,
  power: 8,
} as const

/**
 * What a person made of a trap that was held. `answered`: it was dropped, answered or aborted, and the policy was not asked.
 * `changed`: the policy decided it, and the outcome is another one.
 */
export const released = { no: 0, answered: 1, changed: 2 } as const

/** `powerButton`: it was pressed, and the guest may shut down. */
export const machineState = {
  starting: 0,
  running: 1,
  paused: 2,
  disconnected: 3,
  resumed: 4,
  poweredOff: 5,
  panicked: 6,
  ended: 7,
  powerButton: 8,
} as const

/** Kinds that only the control thread makes: they are never in the ring. */
export const CONTROL_KINDS: ReadonlySet<KindName> = new Set(['machine', 'console', 'control'])

/** Kinds that close the group of records before them. */
export const roots: ReadonlySet<KindName> = new Set(['trap', 'reset', 'translate', 'request'])

/** How a field is stored. */
export type StoredType = Exclude<FieldType, 'flag'>

export interface FieldLayout {
  readonly name: string
  readonly type: StoredType
  /** Index of its first word in the record. */
  readonly word: number
}

/**
 * Words of a record of a kind without its payload, and its fields. In the ring every record starts at a multiple of 8 bytes
 * with a word `kind | words << 8`. Each `u32` and `flag` takes the next word, each `f64` the next even one. `bytes` and `text`
 * are a word with the length in bytes, then the bytes.
 */
export function fieldsOf(name: KindName): { readonly words: number; readonly fields: readonly FieldLayout[] } {
  let word = 1
  const fields = Object.entries<FieldType>(kinds[name].fields).map(([field, type]): FieldLayout => {
    if (type === 'f64') word += word & 1
    const at = word
    word += type === 'f64' ? 2 : 1
    return { name: field, type: type === 'flag' ? 'u32' : type, word: at }
  })
  return { words: word, fields }
}
