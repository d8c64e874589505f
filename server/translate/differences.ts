// SPDX-License-Identifier: Apache-2.0
/**
 * Where QEMU 10.0's arm-smmuv3 is known to differ from the architecture: what the tables of server/smmu/README.md say, as
 * predicates. First come fields of a record, which may come together; then constructs that QEMU walks differently. Lockstep
 * counts what they explain apart from mismatches; the differential test takes nothing else.
 */
import { enums } from '../../protocol/messages.ts'
import * as E from '../smmu/events.ts'
import type { Features } from '../smmu/features.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import * as P from '../smmu/pagetable.ts'
import type { Transaction } from '../smmu/transaction.ts'
import { Walker, type WalkRegisters } from '../smmu/walker.ts'
import type { WalkStep } from '../smmu/walkSteps.ts'
import { type Answer, newAnswer, sameAnswer, setOutcome } from './answer.ts'

const { mapped: MAPPED, fault: FAULT, silent: SILENT, bypass: BYPASS } = enums.translation
const OAS = 44

/** One access, what the walker read for it, and the answers. */
export interface Case {
  readonly address: bigint
  readonly write: boolean
  readonly steps: readonly WalkStep[]
  readonly walker: Answer
  /** The walker's answer to a privileged access without PAN. */
  readonly privileged: () => Answer
  readonly hardware: Answer
}

/** One of them. */
export interface Known {
  readonly name: string
  /** Of IHI 0070, or of DDI 0487 where it says D8. */
  readonly section: string
}

type Event = E.EventRecord
const event = ({ status, words }: Answer): Event | undefined => (status === FAULT[0] ? E.decodeEvent(words) : undefined)
const bits = (word: bigint | undefined, high: number, low: number): number =>
  Number(((word ?? 0n) >> BigInt(low)) & ((1n << BigInt(high - low + 1)) - 1n))
const words = (c: Case, what: 'STE' | 'CD') => c.steps.find(step => step.what === what)?.words
const ofTables = ({ class: cls }: Event) => cls !== E.EVTQ_1_CLASS_IN
const isTable = (step: WalkStep | undefined) => step?.text.startsWith('table') === true
/** What APTable forbids. */
const limits = (c: Case) => c.steps.some(s => s.what === 'S1' && isTable(s) && bits(s.words?.[0], 62, 61) !== 0)

/** A field of a record that QEMU fills otherwise: both records are made equal in it where it applies. */
interface FieldDifference extends Known {
  readonly level: (walker: Event, hardware: Event) => [Event, Event] | undefined
}

const FIELDS: readonly FieldDifference[] = [
  {
    name: 'TTRnW is never set',
    section: '7.3.16',
    level: (w, h) => (w.ttRead && h.id === w.id ? [{ ...w, ttRead: false }, h] : undefined),
  },
  {
    name: 'stage 2 fault on a stage 1 descriptor: S2 = 0, IPA of the table',
    section: '7.3.13',
    level: (w, h) =>
      w.s2 && w.class === E.EVTQ_1_CLASS_TT && h.class === w.class ? [{ ...w, s2: h.s2, ipa: h.ipa }, h] : undefined,
  },
  {
    name: 'stage 2 fault on the TTB or the CD: RnW = 1',
    section: '7.3.13',
    level: (w, h) => (w.s2 && ofTables(w) && h.rnw ? [{ ...w, rnw: true }, h] : undefined),
  },
  {
    name: 'stage 2 fault from the IOTLB: no IPA',
    section: '7.3.16',
    level: (w, h) =>
      w.s2 && w.id === E.EVT_ID_PERMISSION_FAULT && w.class === E.EVTQ_1_CLASS_IN && h.ipa === 0
        ? [{ ...w, ipa: 0 }, h]
        : undefined,
  },
  {
    name: 'F_CD_FETCH has FetchAddr in the place of InputAddr',
    section: '7.3.10',
    level: (w, h) =>
      w.id === E.EVT_ID_CD_FETCH_FAULT && h.id === w.id
        ? [w, { ...h, inputLo: w.inputLo, inputHi: w.inputHi, fetchAddr: w.fetchAddr }]
        : undefined,
  },
]

/** Stage 2 as the STE has it. */
function stage2(c: Case) {
  const ste = words(c, 'STE')
  if (!ste || (bits(ste[0], 3, 1) & 6) !== 6) return undefined
  const word = ste[2]
  const granule = P.tg0GranuleShift(bits(word, 47, 46))
  const startLevel = (granule === 12 ? 2 : 3) - bits(word, 39, 38)
  const one = granule - 3
  return {
    inputBits: 64 - bits(word, 37, 32),
    granule,
    ps: [32, 36, 40, 42, 44, 48, 52, 52][bits(word, 50, 48)] ?? 52,
    hdha: bits(word, 56, 55) !== 0,
    record: bits(word, 58, 58) === 1,
    aa64: bits(word, 51, 51) === 1,
    /** Input bits of one table of the start level, and of one of the level after it. */
    one: granule + (4 - startLevel) * one,
    next: granule + (3 - startLevel) * one,
  }
}

function stage1(c: Case) {
  const cd = words(c, 'CD')
  if (!cd) return undefined
  const upper = bits(c.address, 55, 55) === 1
  const granule = upper ? P.tg1GranuleShift(bits(cd[0], 23, 22)) : P.tg0GranuleShift(bits(cd[0], 7, 6))
  return { granule, upper, tbi: bits(cd[0], 39, 38), ips: bits(cd[0], 34, 32) }
}

interface Construct extends Known {
  readonly explains: (c: Case, w: Event | undefined, h: Event | undefined) => boolean
}

const config = (c: Case) => bits(words(c, 'STE')?.[0], 3, 1)
const onlySte = (c: Case) => c.steps.length === 1
const hasSte = (c: Case) => c.steps.some(({ what }) => what === 'STE')

const CONSTRUCTS: readonly Construct[] = [
  {
    name: 'AP[1], PAN, WXN and XN are ignored: privileged data',
    section: '13.1.3',
    explains: c => fields(c.privileged(), c.hardware) !== undefined,
  },
  {
    name: 'C_BAD_STREAMID is recorded whatever RECINVSID says',
    section: '7.3.3',
    explains: (c, w, h) =>
      w === undefined && !hasSte(c) && c.walker.status === SILENT[0] && h?.id === E.EVT_ID_BAD_STREAMID_CONFIG,
  },
  {
    name: 'a StreamID beyond the L2 table: C_BAD_STE, or an STE if it is within twice the table',
    section: '5.1',
    explains: (c, w) =>
      c.steps.at(-1)?.what === 'L1STD' &&
      c.steps.at(-1)?.text !== 'external abort' &&
      (w === undefined ? c.walker.status === SILENT[0] : w.id === E.EVT_ID_BAD_STREAMID_CONFIG),
  },
  {
    name: 'an address beyond OAS passes a bypass STE',
    section: '3.4',
    explains: (c, w) => w?.id === E.EVT_ID_ADDR_SIZE_FAULT && onlySte(c) && c.hardware.status === BYPASS[0],
  },
  {
    name: 'an input beyond IAS without stage 1 is not recorded',
    section: '3.4',
    explains: (c, w) => w?.id === E.EVT_ID_ADDR_SIZE_FAULT && onlySte(c) && c.hardware.status === SILENT[0],
  },
  {
    name: 'concatenated stage 2 start tables',
    section: 'D8.2',
    explains: c => {
      const s2 = stage2(c)
      return s2 !== undefined && s2.inputBits > s2.one
    },
  },
  {
    name: 'S2T0SZ is limited by S2PS',
    section: '5.2',
    explains: (c, w, h) => {
      const s2 = stage2(c)
      if (!s2) return false
      return (
        (h?.id === E.EVT_ID_BAD_STE_CONFIG && s2.inputBits > s2.ps) ||
        (w?.id === E.EVT_ID_BAD_STE_CONFIG && s2.inputBits > OAS)
      )
    },
  },
  {
    name: 'a start level that S2T0SZ is too small for',
    section: '5.2',
    explains: (c, w) => {
      const s2 = stage2(c)
      return w?.id === E.EVT_ID_BAD_STE_CONFIG && s2 !== undefined && s2.inputBits <= s2.next
    },
  },
  {
    name: 'S2HA and S2HD are accepted',
    section: '5.2',
    explains: (c, w) => w?.id === E.EVT_ID_BAD_STE_CONFIG && stage2(c)?.hdha === true,
  },
  {
    name: 'S1STALLD and S1CDMax without stage 1 or SubstreamIDs',
    section: '5.2',
    explains: (c, _w, h) => {
      const ste = words(c, 'STE')
      return h?.id === E.EVT_ID_BAD_STE_CONFIG && (bits(ste?.[0], 63, 59) !== 0 || bits(ste?.[1], 27, 27) !== 0)
    },
  },
  {
    name: 'S1ContextPtr beyond OAS is fetched, without bits [55:48]',
    section: '3.4.3',
    explains: c => (config(c) & 1) !== 0 && bits(words(c, 'STE')?.[0], 55, OAS) !== 0,
  },
  {
    name: 'blocks at levels that have none',
    section: 'D8.3',
    explains: c => {
      const last = c.steps.at(-1)
      return last?.text === 'invalid' && bits(last.words?.[0], 1, 0) === 1 && (last.level ?? 3) < 2
    },
  },
  {
    name: 'stage 1 tables larger than a stage 2 page',
    section: '7.3.22',
    explains: c => config(c) === 7 && (stage1(c)?.granule ?? 0) > (stage2(c)?.granule ?? 99),
  },
  {
    name: 'a table beyond IPS or S2PS is followed; a leaf is checked after AF and permissions',
    section: '7.3.14',
    explains: (c, w, h) =>
      isTable(c.steps.at(-1)) ||
      (w?.id === E.EVT_ID_ADDR_SIZE_FAULT && (h?.id === E.EVT_ID_ACCESS_FAULT || h?.id === E.EVT_ID_PERMISSION_FAULT)),
  },
  {
    name: 'APTable is looked at before lower levels',
    section: '7.3.22',
    explains: (c, w, h) => limits(c) && w !== undefined && h?.id === E.EVT_ID_PERMISSION_FAULT && !h.s2,
  },
  {
    name: 'APTable does not limit what is cached',
    section: 'D8.4',
    explains: c =>
      limits(c) &&
      [c.walker, c.privileged()].some(
        answer =>
          answer.status === MAPPED[0] &&
          c.hardware.status === MAPPED[0] &&
          answer.pa === c.hardware.pa &&
          answer.addressMask === c.hardware.addressMask &&
          (answer.permissions & ~c.hardware.permissions) === 0,
      ),
  },
  {
    name: 'a stage 2 fault on either TTB is reported for all accesses',
    section: '7.3.22',
    explains: (c, _w, h) =>
      config(c) === 7 && (h ? h.s2 && ofTables(h) : c.hardware.status === SILENT[0] && stage2(c)?.record === false),
  },
  {
    name: 'S2PTW is ignored',
    section: '5.2',
    explains: c => {
      const last = c.steps.at(-1)
      const device = bits(last?.words?.[0], 5, 4) === 0
      return (
        bits(words(c, 'STE')?.[2], 54, 54) === 1 && last?.what === 'S2' && last.class !== E.EVTQ_1_CLASS_IN && device
      )
    },
  },
  {
    name: 'CD.R decides instead of S2R for a stage 1 descriptor',
    section: '7.3.13',
    explains: (_c, w, h) => {
      const recorded = w ?? h
      return (w === undefined) !== (h === undefined) && recorded !== undefined && recorded.class === E.EVTQ_1_CLASS_TT
    },
  },
]

/** All that decoding a record and encoding it again loses. */
const IPA_OFFSET: Known = { name: 'IPA has bits [11:0]', section: '7.3.13' }

export const DIFFERENCES: readonly Known[] = [IPA_OFFSET, ...FIELDS, ...CONSTRUCTS]

function encoded(record: Event): Answer {
  const answer = newAnswer()
  answer.status = FAULT[0]
  E.encodeEvent(record, answer.words)
  return answer
}

/** The fields of a record in which the answers differ; undefined if they differ in more. */
function fields(walker: Answer, hardware: Answer): readonly string[] | undefined {
  if (sameAnswer(walker, hardware)) return []
  let w = event(walker)
  let h = event(hardware)
  if (!w || !h || w.id !== h.id) return undefined
  if (sameAnswer(encoded(w), encoded(h))) return [IPA_OFFSET.name]
  const names: string[] = []
  for (const { name, level } of FIELDS) {
    const made = level(w, h)
    if (!made) continue
    const changed = !sameAnswer(encoded(w), encoded(made[0])) || !sameAnswer(encoded(h), encoded(made[1]))
    if (changed) names.push(name)
    ;[w, h] = made
    if (sameAnswer(encoded(w), encoded(h))) return names
  }
  return undefined
}

/** Names of the differences that turn the walker's answer into QEMU's: none if they are the same; undefined if unknown. */
export function explain(c: Case): readonly string[] | undefined {
  const names = fields(c.walker, c.hardware)
  if (names) return names
  const construct = CONSTRUCTS.find(({ explains }) => explains(c, event(c.walker), event(c.hardware)))
  return construct && [construct.name]
}

/** CD.PAN is bit 40. */
const PAN_BYTE = 5
const PAN_BIT = 1

/** Guest memory in which one CD has no PAN. */
class PanlessMemory implements GuestMemory {
  readonly ram: GuestMemory['ram']
  cd: number | undefined
  readonly #memory: GuestMemory

  constructor(memory: GuestMemory) {
    this.#memory = memory
    this.ram = memory.ram
  }

  read(address: number, target: Uint8Array, offset: number, length: number): boolean {
    const ok = this.#memory.read(address, target, offset, length)
    if (ok && address === this.cd) target[offset + PAN_BYTE] &= ~PAN_BIT
    return ok
  }

  write(): boolean {
    return false
  }
}

/** Looks at single accesses, from the tables as they stand: nothing is cached. */
export class Examiner {
  readonly #memory: PanlessMemory
  readonly #walker: Walker

  constructor(features: Features, memory: GuestMemory) {
    this.#memory = new PanlessMemory(memory)
    this.#walker = new Walker(features, this.#memory)
  }

  setRegisters(registers: WalkRegisters): void {
    this.#walker.setRegisters(registers)
  }

  /** @param hardware QEMU's answer */
  examine(t: Readonly<Transaction>, hardware: Answer): Case {
    const steps: WalkStep[] = []
    const walker = newAnswer()
    setOutcome(
      walker,
      this.#walker.translate({ ...t }, step => steps.push(step)),
    )
    const address = (BigInt(t.hi) << 32n) | BigInt(t.lo)
    return { address, write: t.write, steps, walker, privileged: () => this.#privileged(t, steps), hardware }
  }

  #privileged(t: Readonly<Transaction>, steps: readonly WalkStep[]): Answer {
    const answer = newAnswer()
    this.#memory.cd = steps.find(({ what, words }) => what === 'CD' && words !== undefined)?.address
    setOutcome(answer, this.#walker.translate({ ...t, privileged: true }))
    this.#memory.cd = undefined
    // QEMU says PnU = 0 all the same.
    if (answer.words[0] !== 0) answer.words[3] &= ~2
    return answer
  }
}
