// SPDX-License-Identifier: Apache-2.0
/**
 * The wire contract between QEMU and the server: the one source from which `npm run generate` makes the TypeScript
 * codec, the C header of the QEMU patch, and the tables of protocol/README.md.
 *
 * A message is a msgpack array `[id, seq, ...fields]` of fixed arity. Integers are unsigned. A `u64` takes two elements,
 * the high and the low 32 bits, so that no end needs 64-bit integers (JavaScript: BigInt) on the trap path; a `u53` is
 * one integer below 2^53.
 */

/** Versions of the protocol that this tree speaks; the handshake picks the highest that both ends know. */
export const VERSION = { min: 1, max: 1 } as const

/** Longest frame payload in bytes, checked before anything is allocated. */
export const MAX_FRAME = 1 << 20

/** Most bytes that one memRead or memWrite carries; leaves room for the envelope within MAX_FRAME. */
export const MAX_BYTES = MAX_FRAME - 64

/** Most bytes of a checkpoint: hello hands it back beside the machine description, within the same MAX_FRAME. */
export const MAX_CHECKPOINT = MAX_FRAME / 2

/** Most bytes of a string in UTF-8. */
export const MAX_STRING = 4096

/** Bytes of a nonce, and of an HMAC-SHA256. */
export const TOKEN_BYTES = 32

/** In place of the StreamID of a device on a bus that has no number yet. */
export const NO_STREAM = 0xffff_ffff

/** Most return addresses of a call stack. */
export const MAX_FRAMES = 64

/** Most records of a list. */
export const MAX_LIST = 65536

export type ScalarType = 'u8' | 'u16' | 'u32' | 'u53' | 'u64' | 'str' | 'bin'

/** `list` names a record of `records`; on the wire it is an array of arrays of that record's arity. */
export type FieldType = ScalarType | { readonly list: RecordName }

export interface Field {
  readonly name: string
  readonly type: FieldType
  readonly doc: string
  /** Largest value of an integer, or most bytes of a str or bin, where that is below what the type allows. */
  readonly max?: number
}

export interface Message {
  readonly id: number
  /** Which end sends it. */
  readonly from: 'qemu' | 'server' | 'both'
  /** `request`: answered by the message named in `answer`; `answer`: carries its request's seq; `notice`: neither. */
  readonly kind: 'request' | 'answer' | 'notice'
  readonly answer?: string
  /** On the trap path: decoded in place, nothing allocated. */
  readonly hot?: boolean
  readonly doc: string
  readonly fields: readonly Field[]
}

export type RecordName = 'ramRange' | 'smmu' | 'device'

/** Named values of fields; generated as constants for both ends. */
export const enums = {
  status: {
    ok: [0, 'completed'],
    aborted: [1, 'external abort (trap), or refused by the hardware model (hwRead, hwWrite)'],
    range: [2, 'address range is not RAM, or not within the limits'],
    unsupported: [3, 'known message, but this machine cannot do it'],
  },
  resetCause: {
    cold: [0, 'first reset, before any vCPU runs'],
    guest: [1, 'the guest asked for it (reboot)'],
    host: [2, 'asked for from outside (QMP)'],
  },
  shutdownCause: {
    guest: [0, 'the guest powered off'],
    panic: [1, 'the guest panicked'],
    host: [2, 'asked for from outside: QMP, a signal, or quit'],
    error: [3, 'QEMU gave up'],
  },
  irqLine: {
    evtq: [0, 'event queue'],
    priq: [1, 'PRI queue'],
    cmdSync: [2, 'CMD_SYNC completion'],
    gerror: [3, 'global error'],
  },
  access: {
    write: [1, 'bit 0: write, else read'],
    exec: [2, 'bit 1: instruction fetch'],
    privileged: [4, 'bit 2: privileged'],
    ssidValid: [8, 'bit 3: SubstreamID is valid'],
  },
  translateMode: {
    hardware: [0, 'the model walks the tables itself'],
    server: [1, 'every IOTLB miss is a translate request'],
    lockstep: [2, 'both; the model’s answer is in the request and is the one used'],
  },
  translation: {
    mapped: [0, 'pa, addressMask and permissions hold the result'],
    fault: [1, 'record holds the event; the access is aborted and the event recorded'],
    silent: [2, 'the access is aborted and no event is recorded'],
    bypass: [3, 'the address is passed on unchanged and not cached'],
  },
  invalidateScope: {
    all: [0, 'every IOTLB entry and every cached configuration'],
    iotlb: [1, 'every IOTLB entry'],
    sid: [2, 'cached configuration and IOTLB entries of one StreamID'],
  },
  permission: {
    read: [1, 'bit 0'],
    write: [2, 'bit 1'],
  },
  feature: {
    guestPc: [1, 'bit 0: traps carry the guest PC'],
    guard: [2, 'bit 1: guardAdd and guardRemove work (CPU view of memory)'],
    translate: [4, 'bit 2: translate requests can be switched on'],
    postedWrites: [8, 'bit 3: hwPost, predictedRead and postMismatch work'],
    stage2: [16, 'bit 4: stage2Changed, watch and sysReg work: the vCPUs have an EL2 whose tables can be followed'],
    ring: [32, 'bit 5: ringOpen works: the socket can pass a descriptor, and frames can travel in shared memory'],
    token: [64, 'bit 6: QEMU was given a token: it takes no server that does not prove that it knows it'],
    debug: [128, 'bit 7: park and callStack work'],
    stage2Tlbi: [256, 'bit 8: stage2Changed comes at TLBI instructions as well, if the server uses this'],
  },
  sysReg: {
    hostVttbr: [0, 'VTTBR_EL2 as EL2 last had it for its host; 0: EL2 keeps no stage 2 for a host'],
    hostVtcr: [1, 'VTCR_EL2 at that moment'],
    vttbr: [2, 'VTTBR_EL2 now'],
    vtcr: [3, 'VTCR_EL2 now'],
    hcr: [4, 'HCR_EL2 now'],
    currentEl: [5, 'the exception level, 0 to 3'],
  },
  error: {
    frame: [1, 'frame length is 0 or above MAX_FRAME'],
    msgpack: [2, 'the payload is not exactly one msgpack array'],
    type: [3, 'unknown message, or one that this end does not take'],
    arity: [4, 'wrong number of elements'],
    value: [5, 'an element has the wrong type or is out of range'],
    sequence: [6, 'unexpected sequence number'],
    state: [7, 'known message at a time when it is not allowed'],
    version: [8, 'no common protocol version'],
    ring: [9, 'a counter of the ring is out of range, or a byte on the socket beside it is no doorbell'],
    token: [10, 'no proof that the peer knows the token'],
  },
} as const satisfies Record<string, Record<string, readonly [number, string]>>

type EnumName = keyof typeof enums

const values = (name: EnumName): number[] => Object.values(enums[name]).map(([value]) => value)

/** Largest value of a field that holds one value of an enum, and of one that holds bits of it. */
const oneOf = (name: EnumName): number => Math.max(...values(name))
const bitsOf = (name: EnumName): number => values(name).reduce((all, bit) => all | bit)

const f = (name: string, type: FieldType, doc: string, max?: number): Field =>
  max === undefined ? { name, type, doc } : { name, type, doc, max }

/** Records carried in lists. */
export const records: Record<RecordName, readonly Field[]> = {
  ramRange: [
    f('base', 'u53', 'guest physical address, bytes'),
    f('size', 'u53', 'bytes'),
    f('path', 'str', 'file that backs it with share=on; empty when there is none'),
    f('offset', 'u53', 'offset of `base` in that file, bytes'),
  ],
  smmu: [
    f('base', 'u53', 'guest physical address of the register frame'),
    f('size', 'u53', 'bytes of the register frame'),
    f('irqEvtq', 'u32', 'GIC SPI number'),
    f('irqPriq', 'u32', 'GIC SPI number'),
    f('irqCmdSync', 'u32', 'GIC SPI number'),
    f('irqGerror', 'u32', 'GIC SPI number'),
  ],
  device: [
    f('smmu', 'u8', 'index of the SMMU in front of it'),
    f('sid', 'u32', 'StreamID; 0xffffffff: none yet, its bus has no number'),
    f('name', 'str', 'id given on the command line, or the PCI address'),
    f('model', 'str', 'QEMU’s type name, e.g. virtio-blk-pci'),
  ],
}

const trapFields: readonly Field[] = [
  f('smmu', 'u8', 'index of the SMMU'),
  f('cpu', 'u16', 'index of the vCPU; 0xffff when no vCPU made the access'),
  f('offset', 'u32', 'byte offset into the register frame, as the CPU made it'),
  f('size', 'u8', 'bytes: 1, 2, 4 or 8', 8),
  f('time', 'u53', 'virtual clock, ns'),
  f('pc', 'u64', 'guest PC; 0 when not known'),
  f('lastTrapNs', 'u32', 'round trip of the trap before this one, as QEMU measured it, ns; 0 for the first'),
]

const hardwareFields: readonly Field[] = [
  f('smmu', 'u8', 'index of the SMMU'),
  f('offset', 'u32', 'byte offset into the register frame'),
  f('size', 'u8', 'bytes: 1, 2, 4 or 8', 8),
]

const guardFields: readonly Field[] = [
  f('base', 'u53', 'guest physical address, a multiple of 4096'),
  f('size', 'u53', 'bytes, a multiple of 4096, not 0'),
]

const recordFields: readonly Field[] = [
  f('record0', 'u64', 'event record, doubleword 0'),
  f('record1', 'u64', 'event record, doubleword 1'),
  f('record2', 'u64', 'event record, doubleword 2'),
  f('record3', 'u64', 'event record, doubleword 3'),
]

export const messages = {
  // QEMU → server
  hello: {
    id: 1,
    from: 'qemu',
    kind: 'request',
    answer: 'welcome',
    doc: 'First message of a connection. The server may send requests before it answers. Answered by `refuse` where the peers do not fit.',
    fields: [
      f('minVersion', 'u16', 'lowest protocol version that QEMU speaks'),
      f('maxVersion', 'u16', 'highest'),
      f('features', 'u32', 'bits of `feature`'),
      f('session', 'str', 'empty on the first connection, else what `welcome` gave'),
      f('resumed', 'u8', '1 when the machine already runs and `checkpoint` is the last one received', 1),
      f('lastSeq', 'u32', 'seq of the last request of QEMU that was answered; 0 for none'),
      f('checkpoint', 'bin', 'last checkpoint received in this session; empty when there is none', MAX_CHECKPOINT),
      f('qemuVersion', 'str', 'QEMU’s version'),
      f('vcpus', 'u16', 'number of vCPUs'),
      f('carveoutBase', 'u53', 'guest physical address of hypervisor memory'),
      f('carveoutSize', 'u53', 'bytes of hypervisor memory; 0 when there is none'),
      f('ram', { list: 'ramRange' }, 'RAM, ascending'),
      f('smmus', { list: 'smmu' }, 'SMMUs; the position is the SMMU index'),
      f('devices', { list: 'device' }, 'devices behind an SMMU'),
    ],
  },
  trapRead: {
    id: 2,
    from: 'qemu',
    kind: 'request',
    answer: 'reply',
    hot: true,
    doc: 'The guest reads the register frame.',
    fields: trapFields,
  },
  trapWrite: {
    id: 3,
    from: 'qemu',
    kind: 'request',
    answer: 'reply',
    hot: true,
    doc: 'The guest writes the register frame.',
    fields: [...trapFields, f('value', 'u64', 'value written, zero-extended')],
  },
  translate: {
    id: 4,
    from: 'qemu',
    kind: 'request',
    answer: 'translated',
    hot: true,
    doc: 'An IOTLB miss in translate mode `server` or `lockstep`. In `lockstep` the model’s own answer comes with it.',
    fields: [
      f('smmu', 'u8', 'index of the SMMU'),
      f('sid', 'u32', 'StreamID'),
      f('ssid', 'u32', 'SubstreamID, when bit ssidValid of `access` is set'),
      f('iova', 'u64', 'input address'),
      f('access', 'u8', 'bits of `access`', bitsOf('access')),
      f('time', 'u53', 'virtual clock, ns'),
      f('status', 'u8', 'lockstep: the model’s answer, a value of `translation`; else 0', oneOf('translation')),
      f('pa', 'u53', 'lockstep: output address'),
      f('addressMask', 'u53', 'lockstep: size of the translation minus 1, bytes'),
      f('permissions', 'u8', 'lockstep: bits of `permission`', bitsOf('permission')),
      ...recordFields,
    ],
  },
  event: {
    id: 5,
    from: 'qemu',
    kind: 'notice',
    hot: true,
    doc: 'The hardware model recorded an event (whether or not the queue had room).',
    fields: [f('smmu', 'u8', 'index of the SMMU'), f('time', 'u53', 'virtual clock, ns'), ...recordFields],
  },
  gerror: {
    id: 6,
    from: 'qemu',
    kind: 'notice',
    hot: true,
    doc: 'The hardware model toggled bits of GERROR.',
    fields: [
      f('smmu', 'u8', 'index of the SMMU'),
      f('time', 'u53', 'virtual clock, ns'),
      f('gerror', 'u32', 'GERROR'),
      f('gerrorn', 'u32', 'GERRORN'),
    ],
  },
  reset: {
    id: 7,
    from: 'qemu',
    kind: 'request',
    answer: 'reply',
    doc: 'The machine was reset; all devices are in reset state and no vCPU runs until the answer.',
    fields: [f('cause', 'u8', 'a value of `resetCause`', oneOf('resetCause')), f('time', 'u53', 'virtual clock, ns')],
  },
  guardFault: {
    id: 8,
    from: 'qemu',
    kind: 'notice',
    hot: true,
    doc: 'A vCPU touched guarded memory; it got an external abort.',
    fields: [
      f('cpu', 'u16', 'index of the vCPU; 0xffff when no vCPU made the access'),
      f('address', 'u53', 'guest physical address'),
      f('size', 'u8', 'bytes'),
      f('write', 'u8', '1 for a store, 0 for a load', 1),
      f('time', 'u53', 'virtual clock, ns'),
      f('pc', 'u64', 'guest PC; 0 when not known'),
    ],
  },
  shutdown: {
    id: 9,
    from: 'qemu',
    kind: 'notice',
    doc: 'The machine ends; last message of a connection.',
    fields: [
      f('cause', 'u8', 'a value of `shutdownCause`', oneOf('shutdownCause')),
      f('time', 'u53', 'virtual clock, ns'),
      f('lastTrapNs', 'u32', 'round trip of the last trap, ns'),
    ],
  },
  done: {
    id: 10,
    from: 'qemu',
    kind: 'answer',
    hot: true,
    doc: 'Answers every request of the server but memRead.',
    fields: [f('status', 'u8', 'a value of `status`', oneOf('status')), f('value', 'u64', 'hwRead: the value; else 0')],
  },
  data: {
    id: 11,
    from: 'qemu',
    kind: 'answer',
    doc: 'Answers memRead and callStack.',
    fields: [
      f('status', 'u8', 'a value of `status`', oneOf('status')),
      f('bytes', 'bin', 'the bytes; empty unless status is ok'),
    ],
  },
  predictedRead: {
    id: 12,
    from: 'qemu',
    kind: 'notice',
    hot: true,
    doc: 'The guest read a register that hwPost had given the answer to. Told before anything that the guest did later.',
    fields: [
      f('smmu', 'u8', 'index of the SMMU'),
      f('cpu', 'u16', 'index of the vCPU; 0xffff when no vCPU made the access'),
      f('offset', 'u32', 'byte offset into the register frame'),
      f('time', 'u53', 'virtual clock, ns'),
      f('pc', 'u64', 'guest PC; 0 when not known'),
      f('value', 'u32', 'what the guest got; the access had 4 bytes'),
    ],
  },
  postMismatch: {
    id: 13,
    from: 'qemu',
    kind: 'notice',
    hot: true,
    doc: 'A write of hwPost was refused, or did not lead to the value that it was to lead to.',
    fields: [
      f('smmu', 'u8', 'index of the SMMU'),
      f('offset', 'u32', '`checkOffset` of hwPost'),
      f('value', 'u32', 'what the model holds there'),
    ],
  },
  stage2Changed: {
    id: 14,
    from: 'qemu',
    kind: 'request',
    answer: 'reply',
    doc: 'EL2 has stored to pages of the tables that it keeps for its host, and is about to return to a lower exception level; or, with `stage2Tlbi`, it has executed a TLBI that invalidates stage 2. The vCPU waits. Other vCPUs may be in EL2, and store to the same pages while this is answered: then the pages are told again.',
    fields: [
      f('cpu', 'u16', 'index of the vCPU'),
      f('time', 'u53', 'virtual clock, ns'),
      f('vttbr', 'u64', 'VTTBR_EL2 of the host'),
      f('vtcr', 'u64', 'VTCR_EL2'),
      f('all', 'u8', '1: the tables are new, nothing of them is watched', 1),
      f('pages', 'bin', 'watched pages with stores: guest physical addresses, 8 bytes each, little-endian', 4096),
    ],
  },
  proof: {
    id: 15,
    from: 'qemu',
    kind: 'answer',
    doc: 'Answers challenge.',
    fields: [
      f('nonce', 'bin', 'TOKEN_BYTES random bytes, another time others', TOKEN_BYTES),
      f('mac', 'bin', 'TOKEN_BYTES: that QEMU knows the token', TOKEN_BYTES),
    ],
  },

  // both
  error: {
    id: 31,
    from: 'both',
    kind: 'notice',
    doc: 'The peer broke the protocol. The sender closes the connection after it.',
    fields: [f('code', 'u16', 'a value of `error`'), f('text', 'str', 'names the frame and what was expected')],
  },

  // server → QEMU
  welcome: {
    id: 32,
    from: 'server',
    kind: 'answer',
    doc: 'Answers hello.',
    fields: [
      f('version', 'u16', 'the version that both ends use from now on'),
      f('features', 'u32', 'bits of `feature` that the server uses'),
      f('session', 'str', 'to be sent with the next hello of this machine'),
    ],
  },
  refuse: {
    id: 33,
    from: 'server',
    kind: 'answer',
    doc: 'Answers hello: no common version, or a checkpoint that cannot be resumed. QEMU prints the text and exits.',
    fields: [
      f('minVersion', 'u16', 'lowest protocol version that the server speaks'),
      f('maxVersion', 'u16', 'highest'),
      f('text', 'str', 'why, for the person at the terminal'),
    ],
  },
  reply: {
    id: 34,
    from: 'server',
    kind: 'answer',
    hot: true,
    doc: 'Answers trapRead, trapWrite, reset and stage2Changed.',
    fields: [
      f('status', 'u8', 'ok or aborted of `status`', enums.status.aborted[0]),
      f('value', 'u64', 'trapRead: the value, truncated to the size of the access'),
    ],
  },
  translated: {
    id: 35,
    from: 'server',
    kind: 'answer',
    hot: true,
    doc: 'Answers translate. In lockstep QEMU uses its own answer and ignores this one but for the seq.',
    fields: [
      f('status', 'u8', 'a value of `translation`', oneOf('translation')),
      f('pa', 'u53', 'output address for `iova`'),
      f('addressMask', 'u53', 'size of the translation minus 1, bytes'),
      f('permissions', 'u8', 'bits of `permission`', bitsOf('permission')),
      ...recordFields,
    ],
  },
  hold: {
    id: 36,
    from: 'server',
    kind: 'notice',
    doc: 'The answer to QEMU’s outstanding request will take as long as a person wants (breakpoint): the reply timeout is suspended until it comes.',
    fields: [],
  },
  hwRead: {
    id: 37,
    from: 'server',
    kind: 'request',
    answer: 'done',
    hot: true,
    doc: 'Read a register of the hardware model behind the trap frame.',
    fields: hardwareFields,
  },
  hwWrite: {
    id: 38,
    from: 'server',
    kind: 'request',
    answer: 'done',
    hot: true,
    doc: 'Write a register of the hardware model. Answered after the model has consumed what the write started.',
    fields: [...hardwareFields, f('value', 'u64', 'value')],
  },
  memRead: {
    id: 39,
    from: 'server',
    kind: 'request',
    answer: 'data',
    doc: 'Read guest memory. Only RAM.',
    fields: [f('address', 'u53', 'guest physical address'), f('length', 'u32', 'bytes, at most MAX_BYTES', MAX_BYTES)],
  },
  memWrite: {
    id: 40,
    from: 'server',
    kind: 'request',
    answer: 'done',
    doc: 'Write guest memory. Only RAM.',
    fields: [f('address', 'u53', 'guest physical address'), f('bytes', 'bin', 'the bytes, at most MAX_BYTES')],
  },
  irq: {
    id: 41,
    from: 'server',
    kind: 'request',
    answer: 'done',
    doc: 'Pulse an interrupt line of an SMMU.',
    fields: [f('smmu', 'u8', 'index of the SMMU'), f('line', 'u8', 'a value of `irqLine`', oneOf('irqLine'))],
  },
  invalidate: {
    id: 42,
    from: 'server',
    kind: 'request',
    answer: 'done',
    doc: 'Drop cached translations and configuration of the hardware model.',
    fields: [
      f('smmu', 'u8', 'index of the SMMU'),
      f('scope', 'u8', 'a value of `invalidateScope`', oneOf('invalidateScope')),
      f('sid', 'u32', 'StreamID, for scope `sid`; else 0'),
    ],
  },
  guardAdd: {
    id: 43,
    from: 'server',
    kind: 'request',
    answer: 'done',
    doc: 'From now on every vCPU access to the range is an external abort and a guardFault, whatever part of it was guarded before. Status `range`: not RAM, or more than 4096 separate ranges.',
    fields: guardFields,
  },
  guardRemove: {
    id: 44,
    from: 'server',
    kind: 'request',
    answer: 'done',
    doc: 'No vCPU access to the range is hindered any more, whatever part of it was guarded.',
    fields: guardFields,
  },
  translateMode: {
    id: 45,
    from: 'server',
    kind: 'request',
    answer: 'done',
    doc: 'Choose who translates; drops all cached translations.',
    fields: [
      f('smmu', 'u8', 'index of the SMMU'),
      f('mode', 'u8', 'a value of `translateMode`', oneOf('translateMode')),
    ],
  },
  checkpoint: {
    id: 46,
    from: 'server',
    kind: 'notice',
    doc: 'State to be handed back at the next handshake; replaces the one before. Sent before the answer whose effects it describes.',
    fields: [f('bytes', 'bin', 'opaque to QEMU, at most MAX_CHECKPOINT', MAX_CHECKPOINT)],
  },
  pause: {
    id: 47,
    from: 'server',
    kind: 'request',
    answer: 'done',
    doc: 'Stop all vCPUs.',
    fields: [],
  },
  resume: {
    id: 48,
    from: 'server',
    kind: 'request',
    answer: 'done',
    doc: 'Let the vCPUs run again.',
    fields: [],
  },
  quit: {
    id: 49,
    from: 'server',
    kind: 'notice',
    doc: 'End QEMU at once with this exit code.',
    fields: [f('code', 'u8', 'exit code'), f('text', 'str', 'printed on standard error; may be empty')],
  },
  hwPost: {
    id: 50,
    from: 'server',
    kind: 'notice',
    hot: true,
    doc: 'Write 32 bits of the hardware model, without an answer. If the model then holds `checkValue` at `checkOffset`, QEMU answers the guest’s 32-bit reads there by itself with `answer`, each told by `predictedRead`, until the next trap of that SMMU, hwRead, hwWrite or hwPost; if not, `postMismatch` says so.',
    fields: [
      f('smmu', 'u8', 'index of the SMMU'),
      f('offset', 'u32', 'byte offset into the register frame, a multiple of 4'),
      f('value', 'u32', 'value'),
      f('checkOffset', 'u32', 'byte offset of the register that follows it, a multiple of 4'),
      f('checkValue', 'u32', 'what the model is to hold there once it has consumed what the write started'),
      f('answer', 'u32', 'what the guest is to read there'),
    ],
  },
  watch: {
    id: 51,
    from: 'server',
    kind: 'request',
    answer: 'done',
    doc: 'Stores of vCPUs to a page, from now on, are told by stage2Changed (or no longer). What is read of the page after the answer has all earlier stores in it. Status `range`: not RAM, or more than 65536 pages. A reset, and the end of a connection, end all watching.',
    fields: [
      f('page', 'u53', 'guest physical address, a multiple of 4096'),
      f('on', 'u8', '1: watch, 0: no longer', 1),
    ],
  },
  sysReg: {
    id: 52,
    from: 'server',
    kind: 'request',
    answer: 'done',
    doc: 'Read a system register of a vCPU that matters here. Status `range`: no such vCPU.',
    fields: [f('cpu', 'u16', 'index of the vCPU'), f('reg', 'u8', 'a value of `sysReg`', oneOf('sysReg'))],
  },
  ringOpen: {
    id: 53,
    from: 'server',
    kind: 'request',
    answer: 'done',
    doc: 'Frames of both ends travel in the shared memory whose descriptor comes with the first byte of this frame, from the answer on if that is `ok`. At most once in a connection. Status `range`: not exactly one descriptor, or not a sealed file of a size that fits. Status `unsupported`: not agreed on in the handshake, or it cannot be mapped.',
    fields: [f('size', 'u32', 'bytes of the file: 4096 and twice the capacity of a ring')],
  },
  challenge: {
    id: 54,
    from: 'server',
    kind: 'request',
    answer: 'proof',
    doc: 'Prove that you know the token. The first message after hello, where both ends have one; once in a connection.',
    fields: [f('nonce', 'bin', 'TOKEN_BYTES random bytes, another time others', TOKEN_BYTES)],
  },
  confirm: {
    id: 55,
    from: 'server',
    kind: 'notice',
    doc: 'The proof was right, and the server knows the token as well. Before it, QEMU serves nothing.',
    fields: [f('mac', 'bin', 'TOKEN_BYTES: that the server knows the token', TOKEN_BYTES)],
  },
  park: {
    id: 56,
    from: 'server',
    kind: 'request',
    answer: 'done',
    doc: 'The answer to the outstanding trap will take as long as with `hold`, and somebody wants to look at the vCPU meanwhile: it leaves the access and stops in front of the instruction, which is executed again with the answer. Status `unsupported`: no load or store of a vCPU under TCG, or others wait for the answer already.',
    fields: [],
  },
  callStack: {
    id: 57,
    from: 'server',
    kind: 'request',
    answer: 'data',
    doc: 'Return addresses of the vCPU that waits for the answer to its trap, 8 bytes each, little-endian, the innermost first: of the frame records that X29 leads to, as far as they are in RAM. Status `range`: this vCPU does not wait.',
    fields: [f('cpu', 'u16', 'index of the vCPU'), f('depth', 'u8', 'at most so many', MAX_FRAMES)],
  },
} as const satisfies Record<string, Message>

export type MessageName = keyof typeof messages
