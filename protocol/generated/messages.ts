// SPDX-License-Identifier: Apache-2.0
/** Generated from ../messages.ts; do not edit. What the messages mean is said in ../README.md. */
import { Cursor, type Shape } from '../cursor.ts'
import type { FrameWriter } from '../framing.ts'

/** Id of each message; the `type` of its object. */
export const Id = {
  hello: 1,
  trapRead: 2,
  trapWrite: 3,
  translate: 4,
  event: 5,
  gerror: 6,
  reset: 7,
  guardFault: 8,
  shutdown: 9,
  done: 10,
  data: 11,
  predictedRead: 12,
  postMismatch: 13,
  stage2Changed: 14,
  proof: 15,
  error: 31,
  welcome: 32,
  refuse: 33,
  reply: 34,
  translated: 35,
  hold: 36,
  hwRead: 37,
  hwWrite: 38,
  memRead: 39,
  memWrite: 40,
  irq: 41,
  invalidate: 42,
  guardAdd: 43,
  guardRemove: 44,
  translateMode: 45,
  checkpoint: 46,
  pause: 47,
  resume: 48,
  quit: 49,
  hwPost: 50,
  watch: 51,
  sysReg: 52,
  ringOpen: 53,
  challenge: 54,
  confirm: 55,
  park: 56,
  callStack: 57,
} as const

export interface RamRange {
  /** guest physical address, bytes */
  readonly base: number
  /** bytes */
  readonly size: number
  /** file that backs it with share=on; empty when there is none */
  readonly path: string
  /** offset of `base` in that file, bytes */
  readonly offset: number
}

function decodeRamRange(c: Cursor): RamRange {
  return {
    base: c.u53(Number.MAX_SAFE_INTEGER, 'ramRange.base')[0],
    size: c.u53(Number.MAX_SAFE_INTEGER, 'ramRange.size')[0],
    path: c.str('ramRange.path'),
    offset: c.u53(Number.MAX_SAFE_INTEGER, 'ramRange.offset')[0],
  }
}

function encodeRamRange(out: FrameWriter, record: RamRange): void {
  out.u53(record.base, Number.MAX_SAFE_INTEGER, 'ramRange.base')
  out.u53(record.size, Number.MAX_SAFE_INTEGER, 'ramRange.size')
  out.str(record.path, 'ramRange.path')
  out.u53(record.offset, Number.MAX_SAFE_INTEGER, 'ramRange.offset')
}

export interface Smmu {
  /** guest physical address of the register frame */
  readonly base: number
  /** bytes of the register frame */
  readonly size: number
  /** GIC SPI number */
  readonly irqEvtq: number
  /** GIC SPI number */
  readonly irqPriq: number
  /** GIC SPI number */
  readonly irqCmdSync: number
  /** GIC SPI number */
  readonly irqGerror: number
}

function decodeSmmu(c: Cursor): Smmu {
  return {
    base: c.u53(Number.MAX_SAFE_INTEGER, 'smmu.base')[0],
    size: c.u53(Number.MAX_SAFE_INTEGER, 'smmu.size')[0],
    irqEvtq: c.u32(0xffffffff, 'smmu.irqEvtq')[0],
    irqPriq: c.u32(0xffffffff, 'smmu.irqPriq')[0],
    irqCmdSync: c.u32(0xffffffff, 'smmu.irqCmdSync')[0],
    irqGerror: c.u32(0xffffffff, 'smmu.irqGerror')[0],
  }
}

function encodeSmmu(out: FrameWriter, record: Smmu): void {
  out.u53(record.base, Number.MAX_SAFE_INTEGER, 'smmu.base')
  out.u53(record.size, Number.MAX_SAFE_INTEGER, 'smmu.size')
  out.uint(record.irqEvtq, 0xffffffff, 'smmu.irqEvtq')
  out.uint(record.irqPriq, 0xffffffff, 'smmu.irqPriq')
  out.uint(record.irqCmdSync, 0xffffffff, 'smmu.irqCmdSync')
  out.uint(record.irqGerror, 0xffffffff, 'smmu.irqGerror')
}

export interface Device {
  /** index of the SMMU in front of it */
  readonly smmu: number
  /** StreamID; 0xffffffff: none yet, its bus has no number */
  readonly sid: number
  /** id given on the command line, or the PCI address */
  readonly name: string
  /** QEMU’s type name, e.g. virtio-blk-pci */
  readonly model: string
}

function decodeDevice(c: Cursor): Device {
  return {
    smmu: c.uint(0xff, 'device.smmu'),
    sid: c.u32(0xffffffff, 'device.sid')[0],
    name: c.str('device.name'),
    model: c.str('device.model'),
  }
}

function encodeDevice(out: FrameWriter, record: Device): void {
  out.uint(record.smmu, 0xff, 'device.smmu')
  out.uint(record.sid, 0xffffffff, 'device.sid')
  out.str(record.name, 'device.name')
  out.str(record.model, 'device.model')
}

/**
 * First message of a connection. The server may send requests before it answers. Answered by `refuse` where the peers
 * do not fit.
 */
export interface Hello {
  readonly type: typeof Id.hello
  readonly seq: number
  /** lowest protocol version that QEMU speaks */
  readonly minVersion: number
  /** highest */
  readonly maxVersion: number
  /** bits of `feature` */
  readonly features: number
  /** empty on the first connection, else what `welcome` gave */
  readonly session: string
  /** 1 when the machine already runs and `checkpoint` is the last one received */
  readonly resumed: number
  /** seq of the last request of QEMU that was answered; 0 for none */
  readonly lastSeq: number
  /** last checkpoint received in this session; empty when there is none */
  readonly checkpoint: Uint8Array
  /** QEMU’s version */
  readonly qemuVersion: string
  /** number of vCPUs */
  readonly vcpus: number
  /** guest physical address of hypervisor memory */
  readonly carveoutBase: number
  /** bytes of hypervisor memory; 0 when there is none */
  readonly carveoutSize: number
  /** RAM, ascending */
  readonly ram: readonly RamRange[]
  /** SMMUs; the position is the SMMU index */
  readonly smmus: readonly Smmu[]
  /** devices behind an SMMU */
  readonly devices: readonly Device[]
}

/** The guest reads the register frame. */
export interface TrapRead {
  readonly type: typeof Id.trapRead
  readonly seq: number
  /** index of the SMMU */
  readonly smmu: number
  /** index of the vCPU; 0xffff when no vCPU made the access */
  readonly cpu: number
  /** byte offset into the register frame, as the CPU made it */
  readonly offset: number
  /** bytes: 1, 2, 4 or 8 */
  readonly size: number
  /** virtual clock, ns */
  readonly time: number
  /** guest PC; 0 when not known; high 32 bits */
  readonly pcHi: number
  /** guest PC; 0 when not known; low 32 bits */
  readonly pcLo: number
  /** round trip of the trap before this one, as QEMU measured it, ns; 0 for the first */
  readonly lastTrapNs: number
}

/** The guest writes the register frame. */
export interface TrapWrite {
  readonly type: typeof Id.trapWrite
  readonly seq: number
  /** index of the SMMU */
  readonly smmu: number
  /** index of the vCPU; 0xffff when no vCPU made the access */
  readonly cpu: number
  /** byte offset into the register frame, as the CPU made it */
  readonly offset: number
  /** bytes: 1, 2, 4 or 8 */
  readonly size: number
  /** virtual clock, ns */
  readonly time: number
  /** guest PC; 0 when not known; high 32 bits */
  readonly pcHi: number
  /** guest PC; 0 when not known; low 32 bits */
  readonly pcLo: number
  /** round trip of the trap before this one, as QEMU measured it, ns; 0 for the first */
  readonly lastTrapNs: number
  /** value written, zero-extended; high 32 bits */
  readonly valueHi: number
  /** value written, zero-extended; low 32 bits */
  readonly valueLo: number
}

/** An IOTLB miss in translate mode `server` or `lockstep`. In `lockstep` the model’s own answer comes with it. */
export interface Translate {
  readonly type: typeof Id.translate
  readonly seq: number
  /** index of the SMMU */
  readonly smmu: number
  /** StreamID */
  readonly sid: number
  /** SubstreamID, when bit ssidValid of `access` is set */
  readonly ssid: number
  /** input address; high 32 bits */
  readonly iovaHi: number
  /** input address; low 32 bits */
  readonly iovaLo: number
  /** bits of `access` */
  readonly access: number
  /** virtual clock, ns */
  readonly time: number
  /** lockstep: the model’s answer, a value of `translation`; else 0 */
  readonly status: number
  /** lockstep: output address */
  readonly pa: number
  /** lockstep: size of the translation minus 1, bytes */
  readonly addressMask: number
  /** lockstep: bits of `permission` */
  readonly permissions: number
  /** event record, doubleword 0; high 32 bits */
  readonly record0Hi: number
  /** event record, doubleword 0; low 32 bits */
  readonly record0Lo: number
  /** event record, doubleword 1; high 32 bits */
  readonly record1Hi: number
  /** event record, doubleword 1; low 32 bits */
  readonly record1Lo: number
  /** event record, doubleword 2; high 32 bits */
  readonly record2Hi: number
  /** event record, doubleword 2; low 32 bits */
  readonly record2Lo: number
  /** event record, doubleword 3; high 32 bits */
  readonly record3Hi: number
  /** event record, doubleword 3; low 32 bits */
  readonly record3Lo: number
}

/** The hardware model recorded an event (whether or not the queue had room). */
export interface Event {
  readonly type: typeof Id.event
  readonly seq: number
  /** index of the SMMU */
  readonly smmu: number
  /** virtual clock, ns */
  readonly time: number
  /** event record, doubleword 0; high 32 bits */
  readonly record0Hi: number
  /** event record, doubleword 0; low 32 bits */
  readonly record0Lo: number
  /** event record, doubleword 1; high 32 bits */
  readonly record1Hi: number
  /** event record, doubleword 1; low 32 bits */
  readonly record1Lo: number
  /** event record, doubleword 2; high 32 bits */
  readonly record2Hi: number
  /** event record, doubleword 2; low 32 bits */
  readonly record2Lo: number
  /** event record, doubleword 3; high 32 bits */
  readonly record3Hi: number
  /** event record, doubleword 3; low 32 bits */
  readonly record3Lo: number
}

/** The hardware model toggled bits of GERROR. */
export interface Gerror {
  readonly type: typeof Id.gerror
  readonly seq: number
  /** index of the SMMU */
  readonly smmu: number
  /** virtual clock, ns */
  readonly time: number
  /** GERROR */
  readonly gerror: number
  /** GERRORN */
  readonly gerrorn: number
}

/** The machine was reset; all devices are in reset state and no vCPU runs until the answer. */
export interface Reset {
  readonly type: typeof Id.reset
  readonly seq: number
  /** a value of `resetCause` */
  readonly cause: number
  /** virtual clock, ns */
  readonly time: number
}

/** A vCPU touched guarded memory; it got an external abort. */
export interface GuardFault {
  readonly type: typeof Id.guardFault
  readonly seq: number
  /** index of the vCPU; 0xffff when no vCPU made the access */
  readonly cpu: number
  /** guest physical address */
  readonly address: number
  /** bytes */
  readonly size: number
  /** 1 for a store, 0 for a load */
  readonly write: number
  /** virtual clock, ns */
  readonly time: number
  /** guest PC; 0 when not known; high 32 bits */
  readonly pcHi: number
  /** guest PC; 0 when not known; low 32 bits */
  readonly pcLo: number
}

/** The machine ends; last message of a connection. */
export interface Shutdown {
  readonly type: typeof Id.shutdown
  readonly seq: number
  /** a value of `shutdownCause` */
  readonly cause: number
  /** virtual clock, ns */
  readonly time: number
  /** round trip of the last trap, ns */
  readonly lastTrapNs: number
}

/** Answers every request of the server but memRead. */
export interface Done {
  readonly type: typeof Id.done
  readonly seq: number
  /** a value of `status` */
  readonly status: number
  /** hwRead: the value; else 0; high 32 bits */
  readonly valueHi: number
  /** hwRead: the value; else 0; low 32 bits */
  readonly valueLo: number
}

/** Answers memRead and callStack. */
export interface Data {
  readonly type: typeof Id.data
  readonly seq: number
  /** a value of `status` */
  readonly status: number
  /** the bytes; empty unless status is ok */
  readonly bytes: Uint8Array
}

/** The guest read a register that hwPost had given the answer to. Told before anything that the guest did later. */
export interface PredictedRead {
  readonly type: typeof Id.predictedRead
  readonly seq: number
  /** index of the SMMU */
  readonly smmu: number
  /** index of the vCPU; 0xffff when no vCPU made the access */
  readonly cpu: number
  /** byte offset into the register frame */
  readonly offset: number
  /** virtual clock, ns */
  readonly time: number
  /** guest PC; 0 when not known; high 32 bits */
  readonly pcHi: number
  /** guest PC; 0 when not known; low 32 bits */
  readonly pcLo: number
  /** what the guest got; the access had 4 bytes */
  readonly value: number
}

/** A write of hwPost was refused, or did not lead to the value that it was to lead to. */
export interface PostMismatch {
  readonly type: typeof Id.postMismatch
  readonly seq: number
  /** index of the SMMU */
  readonly smmu: number
  /** `checkOffset` of hwPost */
  readonly offset: number
  /** what the model holds there */
  readonly value: number
}

/**
 * EL2 has stored to pages of the tables that it keeps for its host, and is about to return to a lower exception level;
 * or, with `stage2Tlbi`, it has executed a TLBI that invalidates stage 2. The vCPU waits. Other vCPUs may be in EL2,
 * and store to the same pages while this is answered: then the pages are told again.
 */
export interface Stage2Changed {
  readonly type: typeof Id.stage2Changed
  readonly seq: number
  /** index of the vCPU */
  readonly cpu: number
  /** virtual clock, ns */
  readonly time: number
  /** VTTBR_EL2 of the host; high 32 bits */
  readonly vttbrHi: number
  /** VTTBR_EL2 of the host; low 32 bits */
  readonly vttbrLo: number
  /** VTCR_EL2; high 32 bits */
  readonly vtcrHi: number
  /** VTCR_EL2; low 32 bits */
  readonly vtcrLo: number
  /** 1: the tables are new, nothing of them is watched */
  readonly all: number
  /** watched pages with stores: guest physical addresses, 8 bytes each, little-endian */
  readonly pages: Uint8Array
}

/** Answers challenge. */
export interface Proof {
  readonly type: typeof Id.proof
  readonly seq: number
  /** TOKEN_BYTES random bytes, another time others */
  readonly nonce: Uint8Array
  /** TOKEN_BYTES: that QEMU knows the token */
  readonly mac: Uint8Array
}

/** The peer broke the protocol. The sender closes the connection after it. */
export interface PeerError {
  readonly type: typeof Id.error
  readonly seq: number
  /** a value of `error` */
  readonly code: number
  /** names the frame and what was expected */
  readonly text: string
}

/** Answers hello. */
export interface Welcome {
  readonly type: typeof Id.welcome
  readonly seq: number
  /** the version that both ends use from now on */
  readonly version: number
  /** bits of `feature` that the server uses */
  readonly features: number
  /** to be sent with the next hello of this machine */
  readonly session: string
}

/** Answers hello: no common version, or a checkpoint that cannot be resumed. QEMU prints the text and exits. */
export interface Refuse {
  readonly type: typeof Id.refuse
  readonly seq: number
  /** lowest protocol version that the server speaks */
  readonly minVersion: number
  /** highest */
  readonly maxVersion: number
  /** why, for the person at the terminal */
  readonly text: string
}

/** Answers trapRead, trapWrite, reset and stage2Changed. */
export interface Reply {
  readonly type: typeof Id.reply
  readonly seq: number
  /** ok or aborted of `status` */
  readonly status: number
  /** trapRead: the value, truncated to the size of the access; high 32 bits */
  readonly valueHi: number
  /** trapRead: the value, truncated to the size of the access; low 32 bits */
  readonly valueLo: number
}

/** Answers translate. In lockstep QEMU uses its own answer and ignores this one but for the seq. */
export interface Translated {
  readonly type: typeof Id.translated
  readonly seq: number
  /** a value of `translation` */
  readonly status: number
  /** output address for `iova` */
  readonly pa: number
  /** size of the translation minus 1, bytes */
  readonly addressMask: number
  /** bits of `permission` */
  readonly permissions: number
  /** event record, doubleword 0; high 32 bits */
  readonly record0Hi: number
  /** event record, doubleword 0; low 32 bits */
  readonly record0Lo: number
  /** event record, doubleword 1; high 32 bits */
  readonly record1Hi: number
  /** event record, doubleword 1; low 32 bits */
  readonly record1Lo: number
  /** event record, doubleword 2; high 32 bits */
  readonly record2Hi: number
  /** event record, doubleword 2; low 32 bits */
  readonly record2Lo: number
  /** event record, doubleword 3; high 32 bits */
  readonly record3Hi: number
  /** event record, doubleword 3; low 32 bits */
  readonly record3Lo: number
}

/**
 * The answer to QEMU’s outstanding request will take as long as a person wants (breakpoint): the reply timeout is
 * suspended until it comes.
 */
export interface Hold {
  readonly type: typeof Id.hold
  readonly seq: number
}

/** Read a register of the hardware model behind the trap frame. */
export interface HwRead {
  readonly type: typeof Id.hwRead
  readonly seq: number
  /** index of the SMMU */
  readonly smmu: number
  /** byte offset into the register frame */
  readonly offset: number
  /** bytes: 1, 2, 4 or 8 */
  readonly size: number
}

/** Write a register of the hardware model. Answered after the model has consumed what the write started. */
export interface HwWrite {
  readonly type: typeof Id.hwWrite
  readonly seq: number
  /** index of the SMMU */
  readonly smmu: number
  /** byte offset into the register frame */
  readonly offset: number
  /** bytes: 1, 2, 4 or 8 */
  readonly size: number
  /** value; high 32 bits */
  readonly valueHi: number
  /** value; low 32 bits */
  readonly valueLo: number
}

/** Read guest memory. Only RAM. */
export interface MemRead {
  readonly type: typeof Id.memRead
  readonly seq: number
  /** guest physical address */
  readonly address: number
  /** bytes, at most MAX_BYTES */
  readonly length: number
}

/** Write guest memory. Only RAM. */
export interface MemWrite {
  readonly type: typeof Id.memWrite
  readonly seq: number
  /** guest physical address */
  readonly address: number
  /** the bytes, at most MAX_BYTES */
  readonly bytes: Uint8Array
}

/** Pulse an interrupt line of an SMMU. */
export interface Irq {
  readonly type: typeof Id.irq
  readonly seq: number
  /** index of the SMMU */
  readonly smmu: number
  /** a value of `irqLine` */
  readonly line: number
}

/** Drop cached translations and configuration of the hardware model. */
export interface Invalidate {
  readonly type: typeof Id.invalidate
  readonly seq: number
  /** index of the SMMU */
  readonly smmu: number
  /** a value of `invalidateScope` */
  readonly scope: number
  /** StreamID, for scope `sid`; else 0 */
  readonly sid: number
}

/**
 * From now on every vCPU access to the range is an external abort and a guardFault, whatever part of it was guarded
 * before. Status `range`: not RAM, or more than 4096 separate ranges.
 */
export interface GuardAdd {
  readonly type: typeof Id.guardAdd
  readonly seq: number
  /** guest physical address, a multiple of 4096 */
  readonly base: number
  /** bytes, a multiple of 4096, not 0 */
  readonly size: number
}

/** No vCPU access to the range is hindered any more, whatever part of it was guarded. */
export interface GuardRemove {
  readonly type: typeof Id.guardRemove
  readonly seq: number
  /** guest physical address, a multiple of 4096 */
  readonly base: number
  /** bytes, a multiple of 4096, not 0 */
  readonly size: number
}

/** Choose who translates; drops all cached translations. */
export interface TranslateMode {
  readonly type: typeof Id.translateMode
  readonly seq: number
  /** index of the SMMU */
  readonly smmu: number
  /** a value of `translateMode` */
  readonly mode: number
}

/**
 * State to be handed back at the next handshake; replaces the one before. Sent before the answer whose effects it
 * describes.
 */
export interface Checkpoint {
  readonly type: typeof Id.checkpoint
  readonly seq: number
  /** opaque to QEMU, at most MAX_CHECKPOINT */
  readonly bytes: Uint8Array
}

/** Stop all vCPUs. */
export interface Pause {
  readonly type: typeof Id.pause
  readonly seq: number
}

/** Let the vCPUs run again. */
export interface Resume {
  readonly type: typeof Id.resume
  readonly seq: number
}

/** End QEMU at once with this exit code. */
export interface Quit {
  readonly type: typeof Id.quit
  readonly seq: number
  /** exit code */
  readonly code: number
  /** printed on standard error; may be empty */
  readonly text: string
}

/**
 * Write 32 bits of the hardware model, without an answer. If the model then holds `checkValue` at `checkOffset`, QEMU
 * answers the guest’s 32-bit reads there by itself with `answer`, each told by `predictedRead`, until the next trap of
 * that SMMU, hwRead, hwWrite or hwPost; if not, `postMismatch` says so.
 */
export interface HwPost {
  readonly type: typeof Id.hwPost
  readonly seq: number
  /** index of the SMMU */
  readonly smmu: number
  /** byte offset into the register frame, a multiple of 4 */
  readonly offset: number
  /** value */
  readonly value: number
  /** byte offset of the register that follows it, a multiple of 4 */
  readonly checkOffset: number
  /** what the model is to hold there once it has consumed what the write started */
  readonly checkValue: number
  /** what the guest is to read there */
  readonly answer: number
}

/**
 * Stores of vCPUs to a page, from now on, are told by stage2Changed (or no longer). What is read of the page after the
 * answer has all earlier stores in it. Status `range`: not RAM, or more than 65536 pages. A reset, and the end of a
 * connection, end all watching.
 */
export interface Watch {
  readonly type: typeof Id.watch
  readonly seq: number
  /** guest physical address, a multiple of 4096 */
  readonly page: number
  /** 1: watch, 0: no longer */
  readonly on: number
}

/** Read a system register of a vCPU that matters here. Status `range`: no such vCPU. */
export interface SysReg {
  readonly type: typeof Id.sysReg
  readonly seq: number
  /** index of the vCPU */
  readonly cpu: number
  /** a value of `sysReg` */
  readonly reg: number
}

/**
 * Frames of both ends travel in the shared memory whose descriptor comes with the first byte of this frame, from the
 * answer on if that is `ok`. At most once in a connection. Status `range`: not exactly one descriptor, or not a sealed
 * file of a size that fits. Status `unsupported`: not agreed on in the handshake, or it cannot be mapped.
 */
export interface RingOpen {
  readonly type: typeof Id.ringOpen
  readonly seq: number
  /** bytes of the file: 4096 and twice the capacity of a ring */
  readonly size: number
}

/** Prove that you know the token. The first message after hello, where both ends have one; once in a connection. */
export interface Challenge {
  readonly type: typeof Id.challenge
  readonly seq: number
  /** TOKEN_BYTES random bytes, another time others */
  readonly nonce: Uint8Array
}

/** The proof was right, and the server knows the token as well. Before it, QEMU serves nothing. */
export interface Confirm {
  readonly type: typeof Id.confirm
  readonly seq: number
  /** TOKEN_BYTES: that the server knows the token */
  readonly mac: Uint8Array
}

/**
 * The answer to the outstanding trap will take as long as with `hold`, and somebody wants to look at the vCPU
 * meanwhile: it leaves the access and stops in front of the instruction, which is executed again with the answer.
 * Status `unsupported`: no load or store of a vCPU under TCG, or others wait for the answer already.
 */
export interface Park {
  readonly type: typeof Id.park
  readonly seq: number
}

/**
 * Return addresses of the vCPU that waits for the answer to its trap, 8 bytes each, little-endian, the innermost first:
 * of the frame records that X29 leads to, as far as they are in RAM. Status `range`: this vCPU does not wait.
 */
export interface CallStack {
  readonly type: typeof Id.callStack
  readonly seq: number
  /** index of the vCPU */
  readonly cpu: number
  /** at most so many */
  readonly depth: number
}

export type MessageFromQemu =
  | Hello
  | TrapRead
  | TrapWrite
  | Translate
  | Event
  | Gerror
  | Reset
  | GuardFault
  | Shutdown
  | Done
  | Data
  | PredictedRead
  | PostMismatch
  | Stage2Changed
  | Proof
  | PeerError

export type MessageFromServer =
  | PeerError
  | Welcome
  | Refuse
  | Reply
  | Translated
  | Hold
  | HwRead
  | HwWrite
  | MemRead
  | MemWrite
  | Irq
  | Invalidate
  | GuardAdd
  | GuardRemove
  | TranslateMode
  | Checkpoint
  | Pause
  | Resume
  | Quit
  | HwPost
  | Watch
  | SysReg
  | RingOpen
  | Challenge
  | Confirm
  | Park
  | CallStack

export type Message = MessageFromQemu | MessageFromServer

/** What each end receives. */
export interface Received {
  server: MessageFromQemu
  qemu: MessageFromServer
}

type Mutable<T> = { -readonly [K in keyof T]: T[K] }

const FROM_QEMU: (Shape | undefined)[] = []
FROM_QEMU[Id.hello] = { name: 'hello', arity: 16 }
FROM_QEMU[Id.trapRead] = { name: 'trapRead', arity: 10 }
FROM_QEMU[Id.trapWrite] = { name: 'trapWrite', arity: 12 }
FROM_QEMU[Id.translate] = { name: 'translate', arity: 21 }
FROM_QEMU[Id.event] = { name: 'event', arity: 12 }
FROM_QEMU[Id.gerror] = { name: 'gerror', arity: 6 }
FROM_QEMU[Id.reset] = { name: 'reset', arity: 4 }
FROM_QEMU[Id.guardFault] = { name: 'guardFault', arity: 9 }
FROM_QEMU[Id.shutdown] = { name: 'shutdown', arity: 5 }
FROM_QEMU[Id.done] = { name: 'done', arity: 5 }
FROM_QEMU[Id.data] = { name: 'data', arity: 4 }
FROM_QEMU[Id.predictedRead] = { name: 'predictedRead', arity: 9 }
FROM_QEMU[Id.postMismatch] = { name: 'postMismatch', arity: 5 }
FROM_QEMU[Id.stage2Changed] = { name: 'stage2Changed', arity: 10 }
FROM_QEMU[Id.proof] = { name: 'proof', arity: 4 }
FROM_QEMU[Id.error] = { name: 'error', arity: 4 }

const FROM_SERVER: (Shape | undefined)[] = []
FROM_SERVER[Id.error] = { name: 'error', arity: 4 }
FROM_SERVER[Id.welcome] = { name: 'welcome', arity: 5 }
FROM_SERVER[Id.refuse] = { name: 'refuse', arity: 5 }
FROM_SERVER[Id.reply] = { name: 'reply', arity: 5 }
FROM_SERVER[Id.translated] = { name: 'translated', arity: 14 }
FROM_SERVER[Id.hold] = { name: 'hold', arity: 2 }
FROM_SERVER[Id.hwRead] = { name: 'hwRead', arity: 5 }
FROM_SERVER[Id.hwWrite] = { name: 'hwWrite', arity: 7 }
FROM_SERVER[Id.memRead] = { name: 'memRead', arity: 4 }
FROM_SERVER[Id.memWrite] = { name: 'memWrite', arity: 4 }
FROM_SERVER[Id.irq] = { name: 'irq', arity: 4 }
FROM_SERVER[Id.invalidate] = { name: 'invalidate', arity: 5 }
FROM_SERVER[Id.guardAdd] = { name: 'guardAdd', arity: 4 }
FROM_SERVER[Id.guardRemove] = { name: 'guardRemove', arity: 4 }
FROM_SERVER[Id.translateMode] = { name: 'translateMode', arity: 4 }
FROM_SERVER[Id.checkpoint] = { name: 'checkpoint', arity: 3 }
FROM_SERVER[Id.pause] = { name: 'pause', arity: 2 }
FROM_SERVER[Id.resume] = { name: 'resume', arity: 2 }
FROM_SERVER[Id.quit] = { name: 'quit', arity: 4 }
FROM_SERVER[Id.hwPost] = { name: 'hwPost', arity: 8 }
FROM_SERVER[Id.watch] = { name: 'watch', arity: 4 }
FROM_SERVER[Id.sysReg] = { name: 'sysReg', arity: 4 }
FROM_SERVER[Id.ringOpen] = { name: 'ringOpen', arity: 3 }
FROM_SERVER[Id.challenge] = { name: 'challenge', arity: 3 }
FROM_SERVER[Id.confirm] = { name: 'confirm', arity: 3 }
FROM_SERVER[Id.park] = { name: 'park', arity: 2 }
FROM_SERVER[Id.callStack] = { name: 'callStack', arity: 4 }

function decodeHello(c: Cursor): Hello {
  return {
    type: Id.hello,
    seq: c.seq,
    minVersion: c.uint(0xffff, 'minVersion'),
    maxVersion: c.uint(0xffff, 'maxVersion'),
    features: c.u32(0xffffffff, 'features')[0],
    session: c.str('session'),
    resumed: c.uint(1, 'resumed'),
    lastSeq: c.u32(0xffffffff, 'lastSeq')[0],
    checkpoint: c.bin(0x80000, 'checkpoint'),
    qemuVersion: c.str('qemuVersion'),
    vcpus: c.uint(0xffff, 'vcpus'),
    carveoutBase: c.u53(Number.MAX_SAFE_INTEGER, 'carveoutBase')[0],
    carveoutSize: c.u53(Number.MAX_SAFE_INTEGER, 'carveoutSize')[0],
    ram: c.list(4, 'ram', decodeRamRange),
    smmus: c.list(6, 'smmus', decodeSmmu),
    devices: c.list(4, 'devices', decodeDevice),
  }
}

function decodeTrapRead(c: Cursor, m: Mutable<TrapRead>): TrapRead {
  m.seq = c.seq
  m.smmu = c.uint(0xff, 'smmu')
  m.cpu = c.uint(0xffff, 'cpu')
  m.offset = c.u32(0xffffffff, 'offset')[0]
  m.size = c.uint(8, 'size')
  m.time = c.u53(Number.MAX_SAFE_INTEGER, 'time')[0]
  m.pcHi = c.u32(0xffffffff, 'pcHi')[0]
  m.pcLo = c.u32(0xffffffff, 'pcLo')[0]
  m.lastTrapNs = c.u32(0xffffffff, 'lastTrapNs')[0]
  return m
}

function decodeTrapWrite(c: Cursor, m: Mutable<TrapWrite>): TrapWrite {
  m.seq = c.seq
  m.smmu = c.uint(0xff, 'smmu')
  m.cpu = c.uint(0xffff, 'cpu')
  m.offset = c.u32(0xffffffff, 'offset')[0]
  m.size = c.uint(8, 'size')
  m.time = c.u53(Number.MAX_SAFE_INTEGER, 'time')[0]
  m.pcHi = c.u32(0xffffffff, 'pcHi')[0]
  m.pcLo = c.u32(0xffffffff, 'pcLo')[0]
  m.lastTrapNs = c.u32(0xffffffff, 'lastTrapNs')[0]
  m.valueHi = c.u32(0xffffffff, 'valueHi')[0]
  m.valueLo = c.u32(0xffffffff, 'valueLo')[0]
  return m
}

function decodeTranslate(c: Cursor, m: Mutable<Translate>): Translate {
  m.seq = c.seq
  m.smmu = c.uint(0xff, 'smmu')
  m.sid = c.u32(0xffffffff, 'sid')[0]
  m.ssid = c.u32(0xffffffff, 'ssid')[0]
  m.iovaHi = c.u32(0xffffffff, 'iovaHi')[0]
  m.iovaLo = c.u32(0xffffffff, 'iovaLo')[0]
  m.access = c.uint(15, 'access')
  m.time = c.u53(Number.MAX_SAFE_INTEGER, 'time')[0]
  m.status = c.uint(3, 'status')
  m.pa = c.u53(Number.MAX_SAFE_INTEGER, 'pa')[0]
  m.addressMask = c.u53(Number.MAX_SAFE_INTEGER, 'addressMask')[0]
  m.permissions = c.uint(3, 'permissions')
  m.record0Hi = c.u32(0xffffffff, 'record0Hi')[0]
  m.record0Lo = c.u32(0xffffffff, 'record0Lo')[0]
  m.record1Hi = c.u32(0xffffffff, 'record1Hi')[0]
  m.record1Lo = c.u32(0xffffffff, 'record1Lo')[0]
  m.record2Hi = c.u32(0xffffffff, 'record2Hi')[0]
  m.record2Lo = c.u32(0xffffffff, 'record2Lo')[0]
  m.record3Hi = c.u32(0xffffffff, 'record3Hi')[0]
  m.record3Lo = c.u32(0xffffffff, 'record3Lo')[0]
  return m
}

function decodeEvent(c: Cursor, m: Mutable<Event>): Event {
  m.seq = c.seq
  m.smmu = c.uint(0xff, 'smmu')
  m.time = c.u53(Number.MAX_SAFE_INTEGER, 'time')[0]
  m.record0Hi = c.u32(0xffffffff, 'record0Hi')[0]
  m.record0Lo = c.u32(0xffffffff, 'record0Lo')[0]
  m.record1Hi = c.u32(0xffffffff, 'record1Hi')[0]
  m.record1Lo = c.u32(0xffffffff, 'record1Lo')[0]
  m.record2Hi = c.u32(0xffffffff, 'record2Hi')[0]
  m.record2Lo = c.u32(0xffffffff, 'record2Lo')[0]
  m.record3Hi = c.u32(0xffffffff, 'record3Hi')[0]
  m.record3Lo = c.u32(0xffffffff, 'record3Lo')[0]
  return m
}

function decodeGerror(c: Cursor, m: Mutable<Gerror>): Gerror {
  m.seq = c.seq
  m.smmu = c.uint(0xff, 'smmu')
  m.time = c.u53(Number.MAX_SAFE_INTEGER, 'time')[0]
  m.gerror = c.u32(0xffffffff, 'gerror')[0]
  m.gerrorn = c.u32(0xffffffff, 'gerrorn')[0]
  return m
}

function decodeReset(c: Cursor): Reset {
  return {
    type: Id.reset,
    seq: c.seq,
    cause: c.uint(2, 'cause'),
    time: c.u53(Number.MAX_SAFE_INTEGER, 'time')[0],
  }
}

function decodeGuardFault(c: Cursor, m: Mutable<GuardFault>): GuardFault {
  m.seq = c.seq
  m.cpu = c.uint(0xffff, 'cpu')
  m.address = c.u53(Number.MAX_SAFE_INTEGER, 'address')[0]
  m.size = c.uint(0xff, 'size')
  m.write = c.uint(1, 'write')
  m.time = c.u53(Number.MAX_SAFE_INTEGER, 'time')[0]
  m.pcHi = c.u32(0xffffffff, 'pcHi')[0]
  m.pcLo = c.u32(0xffffffff, 'pcLo')[0]
  return m
}

function decodeShutdown(c: Cursor): Shutdown {
  return {
    type: Id.shutdown,
    seq: c.seq,
    cause: c.uint(3, 'cause'),
    time: c.u53(Number.MAX_SAFE_INTEGER, 'time')[0],
    lastTrapNs: c.u32(0xffffffff, 'lastTrapNs')[0],
  }
}

function decodeDone(c: Cursor, m: Mutable<Done>): Done {
  m.seq = c.seq
  m.status = c.uint(3, 'status')
  m.valueHi = c.u32(0xffffffff, 'valueHi')[0]
  m.valueLo = c.u32(0xffffffff, 'valueLo')[0]
  return m
}

function decodeData(c: Cursor): Data {
  return {
    type: Id.data,
    seq: c.seq,
    status: c.uint(3, 'status'),
    bytes: c.bin(0xfffc0, 'bytes'),
  }
}

function decodePredictedRead(c: Cursor, m: Mutable<PredictedRead>): PredictedRead {
  m.seq = c.seq
  m.smmu = c.uint(0xff, 'smmu')
  m.cpu = c.uint(0xffff, 'cpu')
  m.offset = c.u32(0xffffffff, 'offset')[0]
  m.time = c.u53(Number.MAX_SAFE_INTEGER, 'time')[0]
  m.pcHi = c.u32(0xffffffff, 'pcHi')[0]
  m.pcLo = c.u32(0xffffffff, 'pcLo')[0]
  m.value = c.u32(0xffffffff, 'value')[0]
  return m
}

function decodePostMismatch(c: Cursor, m: Mutable<PostMismatch>): PostMismatch {
  m.seq = c.seq
  m.smmu = c.uint(0xff, 'smmu')
  m.offset = c.u32(0xffffffff, 'offset')[0]
  m.value = c.u32(0xffffffff, 'value')[0]
  return m
}

function decodeStage2Changed(c: Cursor): Stage2Changed {
  return {
    type: Id.stage2Changed,
    seq: c.seq,
    cpu: c.uint(0xffff, 'cpu'),
    time: c.u53(Number.MAX_SAFE_INTEGER, 'time')[0],
    vttbrHi: c.u32(0xffffffff, 'vttbrHi')[0],
    vttbrLo: c.u32(0xffffffff, 'vttbrLo')[0],
    vtcrHi: c.u32(0xffffffff, 'vtcrHi')[0],
    vtcrLo: c.u32(0xffffffff, 'vtcrLo')[0],
    all: c.uint(1, 'all'),
    pages: c.bin(0x1000, 'pages'),
  }
}

function decodeProof(c: Cursor): Proof {
  return {
    type: Id.proof,
    seq: c.seq,
    nonce: c.bin(32, 'nonce'),
    mac: c.bin(32, 'mac'),
  }
}

function decodePeerError(c: Cursor): PeerError {
  return {
    type: Id.error,
    seq: c.seq,
    code: c.uint(0xffff, 'code'),
    text: c.str('text'),
  }
}

function decodeWelcome(c: Cursor): Welcome {
  return {
    type: Id.welcome,
    seq: c.seq,
    version: c.uint(0xffff, 'version'),
    features: c.u32(0xffffffff, 'features')[0],
    session: c.str('session'),
  }
}

function decodeRefuse(c: Cursor): Refuse {
  return {
    type: Id.refuse,
    seq: c.seq,
    minVersion: c.uint(0xffff, 'minVersion'),
    maxVersion: c.uint(0xffff, 'maxVersion'),
    text: c.str('text'),
  }
}

function decodeReply(c: Cursor, m: Mutable<Reply>): Reply {
  m.seq = c.seq
  m.status = c.uint(1, 'status')
  m.valueHi = c.u32(0xffffffff, 'valueHi')[0]
  m.valueLo = c.u32(0xffffffff, 'valueLo')[0]
  return m
}

function decodeTranslated(c: Cursor, m: Mutable<Translated>): Translated {
  m.seq = c.seq
  m.status = c.uint(3, 'status')
  m.pa = c.u53(Number.MAX_SAFE_INTEGER, 'pa')[0]
  m.addressMask = c.u53(Number.MAX_SAFE_INTEGER, 'addressMask')[0]
  m.permissions = c.uint(3, 'permissions')
  m.record0Hi = c.u32(0xffffffff, 'record0Hi')[0]
  m.record0Lo = c.u32(0xffffffff, 'record0Lo')[0]
  m.record1Hi = c.u32(0xffffffff, 'record1Hi')[0]
  m.record1Lo = c.u32(0xffffffff, 'record1Lo')[0]
  m.record2Hi = c.u32(0xffffffff, 'record2Hi')[0]
  m.record2Lo = c.u32(0xffffffff, 'record2Lo')[0]
  m.record3Hi = c.u32(0xffffffff, 'record3Hi')[0]
  m.record3Lo = c.u32(0xffffffff, 'record3Lo')[0]
  return m
}

const decodeHold = (c: Cursor): Hold => ({ type: Id.hold, seq: c.seq })

function decodeHwRead(c: Cursor, m: Mutable<HwRead>): HwRead {
  m.seq = c.seq
  m.smmu = c.uint(0xff, 'smmu')
  m.offset = c.u32(0xffffffff, 'offset')[0]
  m.size = c.uint(8, 'size')
  return m
}

function decodeHwWrite(c: Cursor, m: Mutable<HwWrite>): HwWrite {
  m.seq = c.seq
  m.smmu = c.uint(0xff, 'smmu')
  m.offset = c.u32(0xffffffff, 'offset')[0]
  m.size = c.uint(8, 'size')
  m.valueHi = c.u32(0xffffffff, 'valueHi')[0]
  m.valueLo = c.u32(0xffffffff, 'valueLo')[0]
  return m
}

function decodeMemRead(c: Cursor): MemRead {
  return {
    type: Id.memRead,
    seq: c.seq,
    address: c.u53(Number.MAX_SAFE_INTEGER, 'address')[0],
    length: c.u32(0xfffc0, 'length')[0],
  }
}

function decodeMemWrite(c: Cursor): MemWrite {
  return {
    type: Id.memWrite,
    seq: c.seq,
    address: c.u53(Number.MAX_SAFE_INTEGER, 'address')[0],
    bytes: c.bin(0xfffc0, 'bytes'),
  }
}

function decodeIrq(c: Cursor): Irq {
  return {
    type: Id.irq,
    seq: c.seq,
    smmu: c.uint(0xff, 'smmu'),
    line: c.uint(3, 'line'),
  }
}

function decodeInvalidate(c: Cursor): Invalidate {
  return {
    type: Id.invalidate,
    seq: c.seq,
    smmu: c.uint(0xff, 'smmu'),
    scope: c.uint(2, 'scope'),
    sid: c.u32(0xffffffff, 'sid')[0],
  }
}

function decodeGuardAdd(c: Cursor): GuardAdd {
  return {
    type: Id.guardAdd,
    seq: c.seq,
    base: c.u53(Number.MAX_SAFE_INTEGER, 'base')[0],
    size: c.u53(Number.MAX_SAFE_INTEGER, 'size')[0],
  }
}

function decodeGuardRemove(c: Cursor): GuardRemove {
  return {
    type: Id.guardRemove,
    seq: c.seq,
    base: c.u53(Number.MAX_SAFE_INTEGER, 'base')[0],
    size: c.u53(Number.MAX_SAFE_INTEGER, 'size')[0],
  }
}

function decodeTranslateMode(c: Cursor): TranslateMode {
  return {
    type: Id.translateMode,
    seq: c.seq,
    smmu: c.uint(0xff, 'smmu'),
    mode: c.uint(2, 'mode'),
  }
}

function decodeCheckpoint(c: Cursor): Checkpoint {
  return {
    type: Id.checkpoint,
    seq: c.seq,
    bytes: c.bin(0x80000, 'bytes'),
  }
}

const decodePause = (c: Cursor): Pause => ({ type: Id.pause, seq: c.seq })

const decodeResume = (c: Cursor): Resume => ({ type: Id.resume, seq: c.seq })

function decodeQuit(c: Cursor): Quit {
  return {
    type: Id.quit,
    seq: c.seq,
    code: c.uint(0xff, 'code'),
    text: c.str('text'),
  }
}

function decodeHwPost(c: Cursor, m: Mutable<HwPost>): HwPost {
  m.seq = c.seq
  m.smmu = c.uint(0xff, 'smmu')
  m.offset = c.u32(0xffffffff, 'offset')[0]
  m.value = c.u32(0xffffffff, 'value')[0]
  m.checkOffset = c.u32(0xffffffff, 'checkOffset')[0]
  m.checkValue = c.u32(0xffffffff, 'checkValue')[0]
  m.answer = c.u32(0xffffffff, 'answer')[0]
  return m
}

function decodeWatch(c: Cursor): Watch {
  return {
    type: Id.watch,
    seq: c.seq,
    page: c.u53(Number.MAX_SAFE_INTEGER, 'page')[0],
    on: c.uint(1, 'on'),
  }
}

function decodeSysReg(c: Cursor): SysReg {
  return {
    type: Id.sysReg,
    seq: c.seq,
    cpu: c.uint(0xffff, 'cpu'),
    reg: c.uint(5, 'reg'),
  }
}

function decodeRingOpen(c: Cursor): RingOpen {
  return {
    type: Id.ringOpen,
    seq: c.seq,
    size: c.u32(0xffffffff, 'size')[0],
  }
}

function decodeChallenge(c: Cursor): Challenge {
  return {
    type: Id.challenge,
    seq: c.seq,
    nonce: c.bin(32, 'nonce'),
  }
}

function decodeConfirm(c: Cursor): Confirm {
  return {
    type: Id.confirm,
    seq: c.seq,
    mac: c.bin(32, 'mac'),
  }
}

const decodePark = (c: Cursor): Park => ({ type: Id.park, seq: c.seq })

function decodeCallStack(c: Cursor): CallStack {
  return {
    type: Id.callStack,
    seq: c.seq,
    cpu: c.uint(0xffff, 'cpu'),
    depth: c.uint(64, 'depth'),
  }
}

/**
 * Decodes what one end receives. A hot message (trapRead, trapWrite, translate, event, gerror, guardFault, done,
 * predictedRead, postMismatch, reply, translated, hwRead, hwWrite, hwPost) is decoded into an object that the next
 * message of its type overwrites: copy what must live longer. All others are new objects that own what they hold.
 */
export class Decoder<End extends keyof Received> {
  readonly #shapes: readonly (Shape | undefined)[]
  readonly #cursor = new Cursor()
  readonly #trapRead: Mutable<TrapRead> = {
    type: Id.trapRead,
    seq: 0,
    smmu: 0,
    cpu: 0,
    offset: 0,
    size: 0,
    time: 0,
    pcHi: 0,
    pcLo: 0,
    lastTrapNs: 0,
  }
  readonly #trapWrite: Mutable<TrapWrite> = {
    type: Id.trapWrite,
    seq: 0,
    smmu: 0,
    cpu: 0,
    offset: 0,
    size: 0,
    time: 0,
    pcHi: 0,
    pcLo: 0,
    lastTrapNs: 0,
    valueHi: 0,
    valueLo: 0,
  }
  readonly #translate: Mutable<Translate> = {
    type: Id.translate,
    seq: 0,
    smmu: 0,
    sid: 0,
    ssid: 0,
    iovaHi: 0,
    iovaLo: 0,
    access: 0,
    time: 0,
    status: 0,
    pa: 0,
    addressMask: 0,
    permissions: 0,
    record0Hi: 0,
    record0Lo: 0,
    record1Hi: 0,
    record1Lo: 0,
    record2Hi: 0,
    record2Lo: 0,
    record3Hi: 0,
    record3Lo: 0,
  }
  readonly #event: Mutable<Event> = {
    type: Id.event,
    seq: 0,
    smmu: 0,
    time: 0,
    record0Hi: 0,
    record0Lo: 0,
    record1Hi: 0,
    record1Lo: 0,
    record2Hi: 0,
    record2Lo: 0,
    record3Hi: 0,
    record3Lo: 0,
  }
  readonly #gerror: Mutable<Gerror> = { type: Id.gerror, seq: 0, smmu: 0, time: 0, gerror: 0, gerrorn: 0 }
  readonly #guardFault: Mutable<GuardFault> = {
    type: Id.guardFault,
    seq: 0,
    cpu: 0,
    address: 0,
    size: 0,
    write: 0,
    time: 0,
    pcHi: 0,
    pcLo: 0,
  }
  readonly #done: Mutable<Done> = { type: Id.done, seq: 0, status: 0, valueHi: 0, valueLo: 0 }
  readonly #predictedRead: Mutable<PredictedRead> = {
    type: Id.predictedRead,
    seq: 0,
    smmu: 0,
    cpu: 0,
    offset: 0,
    time: 0,
    pcHi: 0,
    pcLo: 0,
    value: 0,
  }
  readonly #postMismatch: Mutable<PostMismatch> = { type: Id.postMismatch, seq: 0, smmu: 0, offset: 0, value: 0 }
  readonly #reply: Mutable<Reply> = { type: Id.reply, seq: 0, status: 0, valueHi: 0, valueLo: 0 }
  readonly #translated: Mutable<Translated> = {
    type: Id.translated,
    seq: 0,
    status: 0,
    pa: 0,
    addressMask: 0,
    permissions: 0,
    record0Hi: 0,
    record0Lo: 0,
    record1Hi: 0,
    record1Lo: 0,
    record2Hi: 0,
    record2Lo: 0,
    record3Hi: 0,
    record3Lo: 0,
  }
  readonly #hwRead: Mutable<HwRead> = { type: Id.hwRead, seq: 0, smmu: 0, offset: 0, size: 0 }
  readonly #hwWrite: Mutable<HwWrite> = {
    type: Id.hwWrite,
    seq: 0,
    smmu: 0,
    offset: 0,
    size: 0,
    valueHi: 0,
    valueLo: 0,
  }
  readonly #hwPost: Mutable<HwPost> = {
    type: Id.hwPost,
    seq: 0,
    smmu: 0,
    offset: 0,
    value: 0,
    checkOffset: 0,
    checkValue: 0,
    answer: 0,
  }

  /** @param end the end that decodes: it takes only messages of the other */
  constructor(end: End) {
    this.#shapes = end === 'server' ? FROM_QEMU : FROM_SERVER
  }

  /**
   * Decodes the payload buffer[start..end).
   * @throws ProtocolError (msgpack, type, arity, value); the caller checks order and sequence
   */
  decode(buffer: Buffer, start: number, end: number): Received[End] {
    const message = this.#message(this.#cursor.open(buffer, start, end, this.#shapes))
    this.#cursor.close()
    return message as Received[End]
  }

  /** @param id of `#shapes` */
  #message(id: number): Message {
    const c = this.#cursor
    switch (id) {
      case Id.hello:
        return decodeHello(c)
      case Id.trapRead:
        return decodeTrapRead(c, this.#trapRead)
      case Id.trapWrite:
        return decodeTrapWrite(c, this.#trapWrite)
      case Id.translate:
        return decodeTranslate(c, this.#translate)
      case Id.event:
        return decodeEvent(c, this.#event)
      case Id.gerror:
        return decodeGerror(c, this.#gerror)
      case Id.reset:
        return decodeReset(c)
      case Id.guardFault:
        return decodeGuardFault(c, this.#guardFault)
      case Id.shutdown:
        return decodeShutdown(c)
      case Id.done:
        return decodeDone(c, this.#done)
      case Id.data:
        return decodeData(c)
      case Id.predictedRead:
        return decodePredictedRead(c, this.#predictedRead)
      case Id.postMismatch:
        return decodePostMismatch(c, this.#postMismatch)
      case Id.stage2Changed:
        return decodeStage2Changed(c)
      case Id.proof:
        return decodeProof(c)
      case Id.error:
        return decodePeerError(c)
      case Id.welcome:
        return decodeWelcome(c)
      case Id.refuse:
        return decodeRefuse(c)
      case Id.reply:
        return decodeReply(c, this.#reply)
      case Id.translated:
        return decodeTranslated(c, this.#translated)
      case Id.hold:
        return decodeHold(c)
      case Id.hwRead:
        return decodeHwRead(c, this.#hwRead)
      case Id.hwWrite:
        return decodeHwWrite(c, this.#hwWrite)
      case Id.memRead:
        return decodeMemRead(c)
      case Id.memWrite:
        return decodeMemWrite(c)
      case Id.irq:
        return decodeIrq(c)
      case Id.invalidate:
        return decodeInvalidate(c)
      case Id.guardAdd:
        return decodeGuardAdd(c)
      case Id.guardRemove:
        return decodeGuardRemove(c)
      case Id.translateMode:
        return decodeTranslateMode(c)
      case Id.checkpoint:
        return decodeCheckpoint(c)
      case Id.pause:
        return decodePause(c)
      case Id.resume:
        return decodeResume(c)
      case Id.quit:
        return decodeQuit(c)
      case Id.hwPost:
        return decodeHwPost(c, this.#hwPost)
      case Id.watch:
        return decodeWatch(c)
      case Id.sysReg:
        return decodeSysReg(c)
      case Id.ringOpen:
        return decodeRingOpen(c)
      case Id.challenge:
        return decodeChallenge(c)
      case Id.confirm:
        return decodeConfirm(c)
      case Id.park:
        return decodePark(c)
      case Id.callStack:
        return decodeCallStack(c)
      default:
        throw new RangeError(`message ${id} has no decoder`)
    }
  }
}

export function encodeHello(out: FrameWriter, seq: number, fields: Omit<Hello, 'type' | 'seq'>): void {
  out.begin('hello', Id.hello, 16, seq)
  out.uint(fields.minVersion, 0xffff, 'minVersion')
  out.uint(fields.maxVersion, 0xffff, 'maxVersion')
  out.uint(fields.features, 0xffffffff, 'features')
  out.str(fields.session, 'session')
  out.uint(fields.resumed, 1, 'resumed')
  out.uint(fields.lastSeq, 0xffffffff, 'lastSeq')
  out.bin(fields.checkpoint, 0x80000, 'checkpoint')
  out.str(fields.qemuVersion, 'qemuVersion')
  out.uint(fields.vcpus, 0xffff, 'vcpus')
  out.u53(fields.carveoutBase, Number.MAX_SAFE_INTEGER, 'carveoutBase')
  out.u53(fields.carveoutSize, Number.MAX_SAFE_INTEGER, 'carveoutSize')
  out.list(fields.ram, 4, 'ram', encodeRamRange)
  out.list(fields.smmus, 6, 'smmus', encodeSmmu)
  out.list(fields.devices, 4, 'devices', encodeDevice)
  out.end()
}

export function encodeTrapRead(
  out: FrameWriter,
  seq: number,
  smmu: number,
  cpu: number,
  offset: number,
  size: number,
  time: number,
  pcHi: number,
  pcLo: number,
  lastTrapNs: number,
): void {
  out.begin('trapRead', Id.trapRead, 10, seq)
  out.uint(smmu, 0xff, 'smmu')
  out.uint(cpu, 0xffff, 'cpu')
  out.uint(offset, 0xffffffff, 'offset')
  out.uint(size, 8, 'size')
  out.u53(time, Number.MAX_SAFE_INTEGER, 'time')
  out.uint(pcHi, 0xffffffff, 'pcHi')
  out.uint(pcLo, 0xffffffff, 'pcLo')
  out.uint(lastTrapNs, 0xffffffff, 'lastTrapNs')
  out.end()
}

export function encodeTrapWrite(
  out: FrameWriter,
  seq: number,
  smmu: number,
  cpu: number,
  offset: number,
  size: number,
  time: number,
  pcHi: number,
  pcLo: number,
  lastTrapNs: number,
  valueHi: number,
  valueLo: number,
): void {
  out.begin('trapWrite', Id.trapWrite, 12, seq)
  out.uint(smmu, 0xff, 'smmu')
  out.uint(cpu, 0xffff, 'cpu')
  out.uint(offset, 0xffffffff, 'offset')
  out.uint(size, 8, 'size')
  out.u53(time, Number.MAX_SAFE_INTEGER, 'time')
  out.uint(pcHi, 0xffffffff, 'pcHi')
  out.uint(pcLo, 0xffffffff, 'pcLo')
  out.uint(lastTrapNs, 0xffffffff, 'lastTrapNs')
  out.uint(valueHi, 0xffffffff, 'valueHi')
  out.uint(valueLo, 0xffffffff, 'valueLo')
  out.end()
}

export function encodeTranslate(
  out: FrameWriter,
  seq: number,
  smmu: number,
  sid: number,
  ssid: number,
  iovaHi: number,
  iovaLo: number,
  access: number,
  time: number,
  status: number,
  pa: number,
  addressMask: number,
  permissions: number,
  record0Hi: number,
  record0Lo: number,
  record1Hi: number,
  record1Lo: number,
  record2Hi: number,
  record2Lo: number,
  record3Hi: number,
  record3Lo: number,
): void {
  out.begin('translate', Id.translate, 21, seq)
  out.uint(smmu, 0xff, 'smmu')
  out.uint(sid, 0xffffffff, 'sid')
  out.uint(ssid, 0xffffffff, 'ssid')
  out.uint(iovaHi, 0xffffffff, 'iovaHi')
  out.uint(iovaLo, 0xffffffff, 'iovaLo')
  out.uint(access, 15, 'access')
  out.u53(time, Number.MAX_SAFE_INTEGER, 'time')
  out.uint(status, 3, 'status')
  out.u53(pa, Number.MAX_SAFE_INTEGER, 'pa')
  out.u53(addressMask, Number.MAX_SAFE_INTEGER, 'addressMask')
  out.uint(permissions, 3, 'permissions')
  out.uint(record0Hi, 0xffffffff, 'record0Hi')
  out.uint(record0Lo, 0xffffffff, 'record0Lo')
  out.uint(record1Hi, 0xffffffff, 'record1Hi')
  out.uint(record1Lo, 0xffffffff, 'record1Lo')
  out.uint(record2Hi, 0xffffffff, 'record2Hi')
  out.uint(record2Lo, 0xffffffff, 'record2Lo')
  out.uint(record3Hi, 0xffffffff, 'record3Hi')
  out.uint(record3Lo, 0xffffffff, 'record3Lo')
  out.end()
}

export function encodeEvent(
  out: FrameWriter,
  seq: number,
  smmu: number,
  time: number,
  record0Hi: number,
  record0Lo: number,
  record1Hi: number,
  record1Lo: number,
  record2Hi: number,
  record2Lo: number,
  record3Hi: number,
  record3Lo: number,
): void {
  out.begin('event', Id.event, 12, seq)
  out.uint(smmu, 0xff, 'smmu')
  out.u53(time, Number.MAX_SAFE_INTEGER, 'time')
  out.uint(record0Hi, 0xffffffff, 'record0Hi')
  out.uint(record0Lo, 0xffffffff, 'record0Lo')
  out.uint(record1Hi, 0xffffffff, 'record1Hi')
  out.uint(record1Lo, 0xffffffff, 'record1Lo')
  out.uint(record2Hi, 0xffffffff, 'record2Hi')
  out.uint(record2Lo, 0xffffffff, 'record2Lo')
  out.uint(record3Hi, 0xffffffff, 'record3Hi')
  out.uint(record3Lo, 0xffffffff, 'record3Lo')
  out.end()
}

export function encodeGerror(
  out: FrameWriter,
  seq: number,
  smmu: number,
  time: number,
  gerror: number,
  gerrorn: number,
): void {
  out.begin('gerror', Id.gerror, 6, seq)
  out.uint(smmu, 0xff, 'smmu')
  out.u53(time, Number.MAX_SAFE_INTEGER, 'time')
  out.uint(gerror, 0xffffffff, 'gerror')
  out.uint(gerrorn, 0xffffffff, 'gerrorn')
  out.end()
}

export function encodeReset(out: FrameWriter, seq: number, cause: number, time: number): void {
  out.begin('reset', Id.reset, 4, seq)
  out.uint(cause, 2, 'cause')
  out.u53(time, Number.MAX_SAFE_INTEGER, 'time')
  out.end()
}

export function encodeGuardFault(
  out: FrameWriter,
  seq: number,
  cpu: number,
  address: number,
  size: number,
  write: number,
  time: number,
  pcHi: number,
  pcLo: number,
): void {
  out.begin('guardFault', Id.guardFault, 9, seq)
  out.uint(cpu, 0xffff, 'cpu')
  out.u53(address, Number.MAX_SAFE_INTEGER, 'address')
  out.uint(size, 0xff, 'size')
  out.uint(write, 1, 'write')
  out.u53(time, Number.MAX_SAFE_INTEGER, 'time')
  out.uint(pcHi, 0xffffffff, 'pcHi')
  out.uint(pcLo, 0xffffffff, 'pcLo')
  out.end()
}

export function encodeShutdown(out: FrameWriter, seq: number, cause: number, time: number, lastTrapNs: number): void {
  out.begin('shutdown', Id.shutdown, 5, seq)
  out.uint(cause, 3, 'cause')
  out.u53(time, Number.MAX_SAFE_INTEGER, 'time')
  out.uint(lastTrapNs, 0xffffffff, 'lastTrapNs')
  out.end()
}

export function encodeDone(out: FrameWriter, seq: number, status: number, valueHi: number, valueLo: number): void {
  out.begin('done', Id.done, 5, seq)
  out.uint(status, 3, 'status')
  out.uint(valueHi, 0xffffffff, 'valueHi')
  out.uint(valueLo, 0xffffffff, 'valueLo')
  out.end()
}

export function encodeData(out: FrameWriter, seq: number, status: number, bytes: Uint8Array): void {
  out.begin('data', Id.data, 4, seq)
  out.uint(status, 3, 'status')
  out.bin(bytes, 0xfffc0, 'bytes')
  out.end()
}

export function encodePredictedRead(
  out: FrameWriter,
  seq: number,
  smmu: number,
  cpu: number,
  offset: number,
  time: number,
  pcHi: number,
  pcLo: number,
  value: number,
): void {
  out.begin('predictedRead', Id.predictedRead, 9, seq)
  out.uint(smmu, 0xff, 'smmu')
  out.uint(cpu, 0xffff, 'cpu')
  out.uint(offset, 0xffffffff, 'offset')
  out.u53(time, Number.MAX_SAFE_INTEGER, 'time')
  out.uint(pcHi, 0xffffffff, 'pcHi')
  out.uint(pcLo, 0xffffffff, 'pcLo')
  out.uint(value, 0xffffffff, 'value')
  out.end()
}

export function encodePostMismatch(out: FrameWriter, seq: number, smmu: number, offset: number, value: number): void {
  out.begin('postMismatch', Id.postMismatch, 5, seq)
  out.uint(smmu, 0xff, 'smmu')
  out.uint(offset, 0xffffffff, 'offset')
  out.uint(value, 0xffffffff, 'value')
  out.end()
}

export function encodeStage2Changed(
  out: FrameWriter,
  seq: number,
  cpu: number,
  time: number,
  vttbrHi: number,
  vttbrLo: number,
  vtcrHi: number,
  vtcrLo: number,
  all: number,
  pages: Uint8Array,
): void {
  out.begin('stage2Changed', Id.stage2Changed, 10, seq)
  out.uint(cpu, 0xffff, 'cpu')
  out.u53(time, Number.MAX_SAFE_INTEGER, 'time')
  out.uint(vttbrHi, 0xffffffff, 'vttbrHi')
  out.uint(vttbrLo, 0xffffffff, 'vttbrLo')
  out.uint(vtcrHi, 0xffffffff, 'vtcrHi')
  out.uint(vtcrLo, 0xffffffff, 'vtcrLo')
  out.uint(all, 1, 'all')
  out.bin(pages, 0x1000, 'pages')
  out.end()
}

export function encodeProof(out: FrameWriter, seq: number, nonce: Uint8Array, mac: Uint8Array): void {
  out.begin('proof', Id.proof, 4, seq)
  out.bin(nonce, 32, 'nonce')
  out.bin(mac, 32, 'mac')
  out.end()
}

export function encodeError(out: FrameWriter, seq: number, code: number, text: string): void {
  out.begin('error', Id.error, 4, seq)
  out.uint(code, 0xffff, 'code')
  out.str(text, 'text')
  out.end()
}

export function encodeWelcome(out: FrameWriter, seq: number, version: number, features: number, session: string): void {
  out.begin('welcome', Id.welcome, 5, seq)
  out.uint(version, 0xffff, 'version')
  out.uint(features, 0xffffffff, 'features')
  out.str(session, 'session')
  out.end()
}

export function encodeRefuse(
  out: FrameWriter,
  seq: number,
  minVersion: number,
  maxVersion: number,
  text: string,
): void {
  out.begin('refuse', Id.refuse, 5, seq)
  out.uint(minVersion, 0xffff, 'minVersion')
  out.uint(maxVersion, 0xffff, 'maxVersion')
  out.str(text, 'text')
  out.end()
}

export function encodeReply(out: FrameWriter, seq: number, status: number, valueHi: number, valueLo: number): void {
  out.begin('reply', Id.reply, 5, seq)
  out.uint(status, 1, 'status')
  out.uint(valueHi, 0xffffffff, 'valueHi')
  out.uint(valueLo, 0xffffffff, 'valueLo')
  out.end()
}

export function encodeTranslated(
  out: FrameWriter,
  seq: number,
  status: number,
  pa: number,
  addressMask: number,
  permissions: number,
  record0Hi: number,
  record0Lo: number,
  record1Hi: number,
  record1Lo: number,
  record2Hi: number,
  record2Lo: number,
  record3Hi: number,
  record3Lo: number,
): void {
  out.begin('translated', Id.translated, 14, seq)
  out.uint(status, 3, 'status')
  out.u53(pa, Number.MAX_SAFE_INTEGER, 'pa')
  out.u53(addressMask, Number.MAX_SAFE_INTEGER, 'addressMask')
  out.uint(permissions, 3, 'permissions')
  out.uint(record0Hi, 0xffffffff, 'record0Hi')
  out.uint(record0Lo, 0xffffffff, 'record0Lo')
  out.uint(record1Hi, 0xffffffff, 'record1Hi')
  out.uint(record1Lo, 0xffffffff, 'record1Lo')
  out.uint(record2Hi, 0xffffffff, 'record2Hi')
  out.uint(record2Lo, 0xffffffff, 'record2Lo')
  out.uint(record3Hi, 0xffffffff, 'record3Hi')
  out.uint(record3Lo, 0xffffffff, 'record3Lo')
  out.end()
}

export function encodeHold(out: FrameWriter, seq: number): void {
  out.begin('hold', Id.hold, 2, seq)
  out.end()
}

export function encodeHwRead(out: FrameWriter, seq: number, smmu: number, offset: number, size: number): void {
  out.begin('hwRead', Id.hwRead, 5, seq)
  out.uint(smmu, 0xff, 'smmu')
  out.uint(offset, 0xffffffff, 'offset')
  out.uint(size, 8, 'size')
  out.end()
}

export function encodeHwWrite(
  out: FrameWriter,
  seq: number,
  smmu: number,
  offset: number,
  size: number,
  valueHi: number,
  valueLo: number,
): void {
  out.begin('hwWrite', Id.hwWrite, 7, seq)
  out.uint(smmu, 0xff, 'smmu')
  out.uint(offset, 0xffffffff, 'offset')
  out.uint(size, 8, 'size')
  out.uint(valueHi, 0xffffffff, 'valueHi')
  out.uint(valueLo, 0xffffffff, 'valueLo')
  out.end()
}

export function encodeMemRead(out: FrameWriter, seq: number, address: number, length: number): void {
  out.begin('memRead', Id.memRead, 4, seq)
  out.u53(address, Number.MAX_SAFE_INTEGER, 'address')
  out.uint(length, 0xfffc0, 'length')
  out.end()
}

export function encodeMemWrite(out: FrameWriter, seq: number, address: number, bytes: Uint8Array): void {
  out.begin('memWrite', Id.memWrite, 4, seq)
  out.u53(address, Number.MAX_SAFE_INTEGER, 'address')
  out.bin(bytes, 0xfffc0, 'bytes')
  out.end()
}

export function encodeIrq(out: FrameWriter, seq: number, smmu: number, line: number): void {
  out.begin('irq', Id.irq, 4, seq)
  out.uint(smmu, 0xff, 'smmu')
  out.uint(line, 3, 'line')
  out.end()
}

export function encodeInvalidate(out: FrameWriter, seq: number, smmu: number, scope: number, sid: number): void {
  out.begin('invalidate', Id.invalidate, 5, seq)
  out.uint(smmu, 0xff, 'smmu')
  out.uint(scope, 2, 'scope')
  out.uint(sid, 0xffffffff, 'sid')
  out.end()
}

export function encodeGuardAdd(out: FrameWriter, seq: number, base: number, size: number): void {
  out.begin('guardAdd', Id.guardAdd, 4, seq)
  out.u53(base, Number.MAX_SAFE_INTEGER, 'base')
  out.u53(size, Number.MAX_SAFE_INTEGER, 'size')
  out.end()
}

export function encodeGuardRemove(out: FrameWriter, seq: number, base: number, size: number): void {
  out.begin('guardRemove', Id.guardRemove, 4, seq)
  out.u53(base, Number.MAX_SAFE_INTEGER, 'base')
  out.u53(size, Number.MAX_SAFE_INTEGER, 'size')
  out.end()
}

export function encodeTranslateMode(out: FrameWriter, seq: number, smmu: number, mode: number): void {
  out.begin('translateMode', Id.translateMode, 4, seq)
  out.uint(smmu, 0xff, 'smmu')
  out.uint(mode, 2, 'mode')
  out.end()
}

export function encodeCheckpoint(out: FrameWriter, seq: number, bytes: Uint8Array): void {
  out.begin('checkpoint', Id.checkpoint, 3, seq)
  out.bin(bytes, 0x80000, 'bytes')
  out.end()
}

export function encodePause(out: FrameWriter, seq: number): void {
  out.begin('pause', Id.pause, 2, seq)
  out.end()
}

export function encodeResume(out: FrameWriter, seq: number): void {
  out.begin('resume', Id.resume, 2, seq)
  out.end()
}

export function encodeQuit(out: FrameWriter, seq: number, code: number, text: string): void {
  out.begin('quit', Id.quit, 4, seq)
  out.uint(code, 0xff, 'code')
  out.str(text, 'text')
  out.end()
}

export function encodeHwPost(
  out: FrameWriter,
  seq: number,
  smmu: number,
  offset: number,
  value: number,
  checkOffset: number,
  checkValue: number,
  answer: number,
): void {
  out.begin('hwPost', Id.hwPost, 8, seq)
  out.uint(smmu, 0xff, 'smmu')
  out.uint(offset, 0xffffffff, 'offset')
  out.uint(value, 0xffffffff, 'value')
  out.uint(checkOffset, 0xffffffff, 'checkOffset')
  out.uint(checkValue, 0xffffffff, 'checkValue')
  out.uint(answer, 0xffffffff, 'answer')
  out.end()
}

export function encodeWatch(out: FrameWriter, seq: number, page: number, on: number): void {
  out.begin('watch', Id.watch, 4, seq)
  out.u53(page, Number.MAX_SAFE_INTEGER, 'page')
  out.uint(on, 1, 'on')
  out.end()
}

export function encodeSysReg(out: FrameWriter, seq: number, cpu: number, reg: number): void {
  out.begin('sysReg', Id.sysReg, 4, seq)
  out.uint(cpu, 0xffff, 'cpu')
  out.uint(reg, 5, 'reg')
  out.end()
}

export function encodeRingOpen(out: FrameWriter, seq: number, size: number): void {
  out.begin('ringOpen', Id.ringOpen, 3, seq)
  out.uint(size, 0xffffffff, 'size')
  out.end()
}

export function encodeChallenge(out: FrameWriter, seq: number, nonce: Uint8Array): void {
  out.begin('challenge', Id.challenge, 3, seq)
  out.bin(nonce, 32, 'nonce')
  out.end()
}

export function encodeConfirm(out: FrameWriter, seq: number, mac: Uint8Array): void {
  out.begin('confirm', Id.confirm, 3, seq)
  out.bin(mac, 32, 'mac')
  out.end()
}

export function encodePark(out: FrameWriter, seq: number): void {
  out.begin('park', Id.park, 2, seq)
  out.end()
}

export function encodeCallStack(out: FrameWriter, seq: number, cpu: number, depth: number): void {
  out.begin('callStack', Id.callStack, 4, seq)
  out.uint(cpu, 0xffff, 'cpu')
  out.uint(depth, 64, 'depth')
  out.end()
}

/** Encodes a message given as an object, for those who do not know its type beforehand. */
export function encode(out: FrameWriter, m: Message): void {
  switch (m.type) {
    case Id.hello:
      encodeHello(out, m.seq, m)
      break
    case Id.trapRead:
      encodeTrapRead(out, m.seq, m.smmu, m.cpu, m.offset, m.size, m.time, m.pcHi, m.pcLo, m.lastTrapNs)
      break
    case Id.trapWrite:
      encodeTrapWrite(
        out,
        m.seq,
        m.smmu,
        m.cpu,
        m.offset,
        m.size,
        m.time,
        m.pcHi,
        m.pcLo,
        m.lastTrapNs,
        m.valueHi,
        m.valueLo,
      )
      break
    case Id.translate:
      encodeTranslate(
        out,
        m.seq,
        m.smmu,
        m.sid,
        m.ssid,
        m.iovaHi,
        m.iovaLo,
        m.access,
        m.time,
        m.status,
        m.pa,
        m.addressMask,
        m.permissions,
        m.record0Hi,
        m.record0Lo,
        m.record1Hi,
        m.record1Lo,
        m.record2Hi,
        m.record2Lo,
        m.record3Hi,
        m.record3Lo,
      )
      break
    case Id.event:
      encodeEvent(
        out,
        m.seq,
        m.smmu,
        m.time,
        m.record0Hi,
        m.record0Lo,
        m.record1Hi,
        m.record1Lo,
        m.record2Hi,
        m.record2Lo,
        m.record3Hi,
        m.record3Lo,
      )
      break
    case Id.gerror:
      encodeGerror(out, m.seq, m.smmu, m.time, m.gerror, m.gerrorn)
      break
    case Id.reset:
      encodeReset(out, m.seq, m.cause, m.time)
      break
    case Id.guardFault:
      encodeGuardFault(out, m.seq, m.cpu, m.address, m.size, m.write, m.time, m.pcHi, m.pcLo)
      break
    case Id.shutdown:
      encodeShutdown(out, m.seq, m.cause, m.time, m.lastTrapNs)
      break
    case Id.done:
      encodeDone(out, m.seq, m.status, m.valueHi, m.valueLo)
      break
    case Id.data:
      encodeData(out, m.seq, m.status, m.bytes)
      break
    case Id.predictedRead:
      encodePredictedRead(out, m.seq, m.smmu, m.cpu, m.offset, m.time, m.pcHi, m.pcLo, m.value)
      break
    case Id.postMismatch:
      encodePostMismatch(out, m.seq, m.smmu, m.offset, m.value)
      break
    case Id.stage2Changed:
      encodeStage2Changed(out, m.seq, m.cpu, m.time, m.vttbrHi, m.vttbrLo, m.vtcrHi, m.vtcrLo, m.all, m.pages)
      break
    case Id.proof:
      encodeProof(out, m.seq, m.nonce, m.mac)
      break
    case Id.error:
      encodeError(out, m.seq, m.code, m.text)
      break
    case Id.welcome:
      encodeWelcome(out, m.seq, m.version, m.features, m.session)
      break
    case Id.refuse:
      encodeRefuse(out, m.seq, m.minVersion, m.maxVersion, m.text)
      break
    case Id.reply:
      encodeReply(out, m.seq, m.status, m.valueHi, m.valueLo)
      break
    case Id.translated:
      encodeTranslated(
        out,
        m.seq,
        m.status,
        m.pa,
        m.addressMask,
        m.permissions,
        m.record0Hi,
        m.record0Lo,
        m.record1Hi,
        m.record1Lo,
        m.record2Hi,
        m.record2Lo,
        m.record3Hi,
        m.record3Lo,
      )
      break
    case Id.hold:
      encodeHold(out, m.seq)
      break
    case Id.hwRead:
      encodeHwRead(out, m.seq, m.smmu, m.offset, m.size)
      break
    case Id.hwWrite:
      encodeHwWrite(out, m.seq, m.smmu, m.offset, m.size, m.valueHi, m.valueLo)
      break
    case Id.memRead:
      encodeMemRead(out, m.seq, m.address, m.length)
      break
    case Id.memWrite:
      encodeMemWrite(out, m.seq, m.address, m.bytes)
      break
    case Id.irq:
      encodeIrq(out, m.seq, m.smmu, m.line)
      break
    case Id.invalidate:
      encodeInvalidate(out, m.seq, m.smmu, m.scope, m.sid)
      break
    case Id.guardAdd:
      encodeGuardAdd(out, m.seq, m.base, m.size)
      break
    case Id.guardRemove:
      encodeGuardRemove(out, m.seq, m.base, m.size)
      break
    case Id.translateMode:
      encodeTranslateMode(out, m.seq, m.smmu, m.mode)
      break
    case Id.checkpoint:
      encodeCheckpoint(out, m.seq, m.bytes)
      break
    case Id.pause:
      encodePause(out, m.seq)
      break
    case Id.resume:
      encodeResume(out, m.seq)
      break
    case Id.quit:
      encodeQuit(out, m.seq, m.code, m.text)
      break
    case Id.hwPost:
      encodeHwPost(out, m.seq, m.smmu, m.offset, m.value, m.checkOffset, m.checkValue, m.answer)
      break
    case Id.watch:
      encodeWatch(out, m.seq, m.page, m.on)
      break
    case Id.sysReg:
      encodeSysReg(out, m.seq, m.cpu, m.reg)
      break
    case Id.ringOpen:
      encodeRingOpen(out, m.seq, m.size)
      break
    case Id.challenge:
      encodeChallenge(out, m.seq, m.nonce)
      break
    case Id.confirm:
      encodeConfirm(out, m.seq, m.mac)
      break
    case Id.park:
      encodePark(out, m.seq)
      break
    case Id.callStack:
      encodeCallStack(out, m.seq, m.cpu, m.depth)
      break
  }
}
