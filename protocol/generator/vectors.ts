// SPDX-License-Identifier: Apache-2.0
/**
 * The conformance vectors. They are packed from the definitions by code that shares nothing with the codec, so that a
 * fault of the codec cannot hide in them.
 */
import type { enums, Field, Message } from '../messages.ts'
import { MAX_FRAME, MAX_STRING, messages } from '../messages.ts'
import type { Element, Style } from './pack.ts'
import { frame, framed, pack, Raw } from './pack.ts'
import { limit, messageArity, messageList, recordFields } from './wire.ts'

/** Value of a field as vectors show it: a u64 as `0x` and 16 digits, a bin as hex. */
export type Value = number | string | readonly Fields[]
export interface Fields {
  readonly [name: string]: Value
}

export interface ValidVector {
  readonly name: string
  readonly message: string
  readonly from: Message['from']
  /** Hex. */
  readonly frame: string
  /** Hex of the same message in shortest encodings, where `frame` has others. */
  readonly shortest?: string
  readonly seq: number
  readonly fields: Fields
}

export interface InvalidVector {
  readonly name: string
  /** The end that must refuse it. */
  readonly to: 'server' | 'qemu'
  readonly frame: string
  readonly error: keyof typeof enums.error
}

export interface Vectors {
  readonly note: string
  readonly valid: readonly ValidVector[]
  readonly invalid: readonly InvalidVector[]
}

/** Elements of a field on the wire. */
function fieldElements({ name, type }: Field, value: Value): Element[] {
  if (typeof value === 'object') {
    if (typeof type !== 'object') throw new Error(`${name} is not a list`)
    const record = recordFields(type.list)
    return [value.map(values => record.flatMap(field => fieldElements(field, values[field.name])))]
  }
  if (type === 'u64') {
    const wide = BigInt(value)
    return [Number(wide >> 32n), Number(wide & 0xffff_ffffn)]
  }
  return [type === 'bin' ? Buffer.from(String(value), 'hex') : value]
}

/** Elements of a message on the wire. */
export const messageElements = ({ id, fields }: Message, seq: number, values: Fields): Element[] => [
  id,
  seq,
  ...fields.flatMap(field => fieldElements(field, values[field.name])),
]

/** Picks the value of a field; `index` tells neighbours apart. */
type Chooser = (field: Field, index: number) => Value

const choose = (fields: readonly Field[], chooser: Chooser, shift = 0): Fields =>
  Object.fromEntries(fields.map((field, index) => [field.name, chooser(field, index + shift)]))

const u64 = (value: bigint): string => `0x${value.toString(16).padStart(16, '0')}`

const least: Chooser = ({ type }) => {
  if (typeof type === 'object') return []
  if (type === 'u64') return u64(0n)
  return type === 'str' || type === 'bin' ? '' : 0
}

/** The largest integers; strings and bytes stay shorter than allowed, to keep the file small. */
const most: Chooser = field => {
  const { type } = field
  if (typeof type === 'object') return [choose(recordFields(type.list), most)]
  if (type === 'u64') return u64(0xffff_ffff_ffff_ffffn)
  if (type === 'str') return '\u{10ffff}'.repeat(16)
  return type === 'bin' ? 'ff'.repeat(Math.min(300, field.max ?? 300)) : limit(field)
}

// values around the places where the encoding changes
const EDGES = [0, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff, 2 ** 32, 2 ** 52]
const WIDE_EDGES = [0x7fff_ffffn, 0xffff_ffffn, 0x1_0000_0000n, 0x80_ffff_007fn, 0x8000_0000_0000_0000n]
const TEXTS = ['a', 'x'.repeat(31), 'y'.repeat(32), 'é€😀', 'z'.repeat(255), 'ö'.repeat(128)]
const SIZES = [1, 255, 256, 40]

/** Other values for each field and each `round`. */
const edges =
  (round: number): Chooser =>
  (field, index) => {
    const { type } = field
    const pick = <T>(list: readonly T[]): T => list[(index + round) % list.length]
    if (typeof type === 'object') {
      return Array.from({ length: round === 0 ? 2 : 16 }, (_, i) => choose(recordFields(type.list), edges(round), i))
    }
    if (type === 'u64') return u64(pick(WIDE_EDGES))
    if (type === 'str') return pick(TEXTS)
    if (type === 'bin') return '5a'.repeat(Math.min(pick(SIZES), field.max ?? Number.POSITIVE_INFINITY))
    return pick(EDGES.filter(edge => edge <= limit(field)))
  }

const VARIANTS: readonly (readonly [name: string, seq: number, Chooser, Style])[] = [
  ['least', 1, least, 'shortest'],
  ['most', 0xffff_ffff, most, 'shortest'],
  ['edges 0', 0x7f, edges(0), 'shortest'],
  ['edges 1', 0x80, edges(1), 'shortest'],
  ['edges 2', 0xffff, edges(2), 'shortest'],
  ['edges 3', 0x1_0000, edges(3), 'shortest'],
  ['longest encodings', 77, edges(0), 'longest'],
]

const valid = (): ValidVector[] =>
  messageList.flatMap(([name, message]) =>
    VARIANTS.map(([variant, seq, chooser, style]) => {
      const fields = choose(message.fields, chooser)
      const elements = messageElements(message, seq, fields)
      return {
        name: `${name}, ${variant}`,
        message: name,
        from: message.from,
        frame: frame(elements, style),
        ...(style === 'longest' && { shortest: frame(elements) }),
        seq,
        fields,
      }
    }),
  )

/** What no str, bin or integer of a message may be. */
const FOREIGN: readonly (readonly [name: string, hex: string])[] = [
  ['nil', 'c0'],
  ['false', 'c2'],
  ['true', 'c3'],
  ['float32', 'ca3f800000'],
  ['float64', 'cb3ff0000000000000'],
  ['ext8', 'c7010100'],
  ['ext16', 'c800010100'],
  ['ext32', 'c9000000010100'],
  ['fixext1', 'd40100'],
  ['fixext2', 'd5010000'],
  ['fixext4', 'd60100000000'],
  ['fixext8', 'd7ff0000000000000000'],
  ['fixext16', `d801${'00'.repeat(16)}`],
  ['negative fixint', 'ff'],
  ['negative int8', 'd080'],
  ['negative int16', 'd18000'],
  ['negative int32', 'd280000000'],
  ['negative int64', 'd38000000000000000'],
  ['positive int8', 'd005'],
  ['positive int64', 'd30000000000000005'],
  ['fixmap', '810101'],
  ['map16', 'de00010101'],
  ['map32', 'df000000010101'],
]

const ARRAYS: readonly (readonly [name: string, hex: string])[] = [
  ['empty array', '90'],
  ['nested arrays', '9191919100'],
  ['array16', 'dc000100'],
  ['array32', 'dd0000000100'],
]

/** A str of these bytes is not text. */
const NO_TEXT: readonly (readonly [name: string, hex: string])[] = [
  ['a lone continuation byte', 'a180'],
  ['a sequence cut off', 'a2e282'],
  ['an overlong NUL', 'a2c080'],
  ['an overlong slash', 'a3e080af'],
  ['a surrogate', 'a3eda080'],
  ['a code point above U+10FFFF', 'a4f4908080'],
  ['a byte that UTF-8 never has', 'a1ff'],
  ['a NUL', 'a3610062'],
]

/** An element of a message. */
type Place = readonly [elements: readonly Element[], index: number]

/** Good messages that one end takes, and where in them what can be spoilt. */
interface Sample {
  readonly to: 'server' | 'qemu'
  /** A message of integers only. */
  readonly plain: readonly Element[]
  readonly str: Place
  readonly bin: Place
  readonly integers: readonly (readonly [name: string, largest: number, Place])[]
  /** Good messages that only the peer takes. */
  readonly foreign: readonly (readonly Element[])[]
}

const { data, hello, hold, hwWrite, invalidate, memWrite, refuse, reset, trapRead, trapWrite } = messages
const U32 = 0xffff_ffff
const U53 = Number.MAX_SAFE_INTEGER

const TRAP: Element[] = [trapWrite.id, 9, 0, 1, 0x98, 8, 1000, 0, 0x8000, 0, 0, 5]
const HARDWARE: Element[] = [hwWrite.id, 9, 0, 0x98, 8, 0, 5]
const REFUSE: Element[] = [refuse.id, 1, 1, 1, 'no']
const MEM_WRITE: Element[] = [memWrite.id, 1, 0, Buffer.from('0102', 'hex')]
const MACHINE: Element[] = [hello.id, 1, 1, 1, 0, 's', 0, 0, Buffer.alloc(0), 'v', 1, 0, 0]

const SAMPLES: readonly Sample[] = [
  {
    to: 'server',
    plain: TRAP,
    str: [[...MACHINE, [], [], []], 5],
    bin: [[data.id, 1, 0, Buffer.from('0102', 'hex')], 3],
    integers: [
      ['seq', U32, [TRAP, 1]],
      ['u8', 0xff, [TRAP, 2]],
      ['u16', 0xffff, [TRAP, 3]],
      ['u32', U32, [TRAP, 4]],
      ['size', 8, [TRAP, 5]],
      ['u53', U53, [TRAP, 6]],
      ['high half of a u64', U32, [TRAP, 7]],
      ['low half of a u64', U32, [TRAP, 8]],
      ['enum', 2, [[reset.id, 1, 0, 0], 2]],
    ],
    foreign: [HARDWARE, [hold.id, 1]],
  },
  {
    to: 'qemu',
    plain: HARDWARE,
    str: [REFUSE, 4],
    bin: [MEM_WRITE, 3],
    integers: [
      ['seq', U32, [HARDWARE, 1]],
      ['u8', 0xff, [HARDWARE, 2]],
      ['u16', 0xffff, [REFUSE, 2]],
      ['u32', U32, [HARDWARE, 3]],
      ['size', 8, [HARDWARE, 4]],
      ['u53', U53, [MEM_WRITE, 2]],
      ['high half of a u64', U32, [HARDWARE, 5]],
      ['low half of a u64', U32, [HARDWARE, 6]],
      ['enum', 2, [[invalidate.id, 1, 0, 0, 0], 3]],
    ],
    foreign: [[trapRead.id, 1, ...Array<number>(messageArity(trapRead) - 2).fill(0)]],
  },
]

const raw = (hex: string): Raw => new Raw(hex)

/** The frame of a message with another element at one place. */
const replaced = ([elements, index]: Place, element: Element): string => frame(elements.with(index, element))

/** The frame of a message that ends within the element at one place. */
const cut = ([elements, index]: Place, hex: string): string =>
  frame(elements.map((element, i) => (i < index ? element : raw(i === index ? hex : ''))))

type Refusal = readonly [error: InvalidVector['error'], name: string, frame: string]

function* refusals({ plain, str, bin, integers, foreign }: Sample): Generator<Refusal> {
  const payload = pack(plain)
  const last: Place = [plain, plain.length - 1]

  yield ['frame', 'length 0', framed(Buffer.alloc(0))]
  yield ['frame', 'length above MAX_FRAME', framed(Buffer.alloc(0), MAX_FRAME + 1)]
  yield ['frame', 'length 2^32 - 1', framed(Buffer.alloc(0), U32)]

  for (const [name, hex] of FOREIGN) yield ['msgpack', `payload is ${name}`, framed(raw(hex).bytes)]
  yield ['msgpack', 'payload is an integer', framed(raw('05').bytes)]
  yield ['msgpack', 'payload is a str', framed(raw('a161').bytes)]
  yield ['msgpack', 'array16 header cut off', framed(raw('dc00').bytes)]
  yield ['msgpack', 'array32 header cut off', framed(raw('dd000000').bytes)]
  for (let size = 1; size < payload.length; size++) {
    yield ['msgpack', `cut off after ${size} bytes`, framed(payload.subarray(0, size))]
  }
  yield ['msgpack', 'uint8 cut off', cut(last, 'cc')]
  yield ['msgpack', 'uint16 cut off', cut(last, 'cd00')]
  yield ['msgpack', 'uint32 cut off', cut(last, 'ce000000')]
  yield ['msgpack', 'uint64 cut off', cut(last, 'cf00000000000000')]
  yield ['msgpack', 'fixstr cut off', cut(str, 'a261')]
  yield ['msgpack', 'str8 cut off', cut(str, 'd90561')]
  yield ['msgpack', 'str16 header cut off', cut(str, 'da00')]
  yield ['msgpack', 'bin8 cut off', cut(bin, 'c40361')]
  yield ['msgpack', 'bin32 of 2^32 - 1 bytes cut off', cut(bin, 'c6ffffffff61')]
  yield ['msgpack', 'byte 0xc1 as an element', replaced(last, raw('c1'))]
  yield ['msgpack', 'a byte too many', framed(Buffer.concat([payload, Buffer.alloc(1)]))]
  yield ['msgpack', 'two messages in one frame', framed(Buffer.concat([payload, payload]))]

  yield ['type', 'id 0', replaced([plain, 0], 0)]
  yield ['type', 'unknown id', replaced([plain, 0], 200)]
  yield ['type', 'unknown id above a byte', replaced([plain, 0], 0x1_0000)]
  for (const elements of foreign) yield ['type', `message ${elements[0]}, which only the peer takes`, frame(elements)]

  yield ['arity', 'empty array', frame([])]
  yield ['arity', 'only the id', frame(plain.slice(0, 1))]
  yield ['arity', 'only id and seq', frame(plain.slice(0, 2))]
  yield ['arity', 'an element too few', frame(plain.slice(0, -1))]
  yield ['arity', 'an element too many', frame([...plain, 0])]
  yield ['arity', 'array32 of 2^32 - 1 elements', framed(Buffer.concat([raw('ddffffffff').bytes, payload.subarray(1)]))]

  for (const [name, hex] of [...FOREIGN, ...ARRAYS]) {
    yield ['value', `${name} as the id`, replaced([plain, 0], raw(hex))]
    yield ['value', `${name} as the seq`, replaced([plain, 1], raw(hex))]
    yield ['value', `${name} as an integer`, replaced([plain, 2], raw(hex))]
    yield ['value', `${name} as a str`, replaced(str, raw(hex))]
    yield ['value', `${name} as a bin`, replaced(bin, raw(hex))]
  }
  yield ['value', 'seq 0', replaced([plain, 1], 0)]
  for (const [name, largest, place] of integers) {
    yield ['value', `${name} too large by 1`, replaced(place, largest + 1)]
    yield ['value', `${name} of 2^64 - 1`, replaced(place, raw('cfffffffffffffffff'))]
    yield ['value', `str as ${name}`, replaced(place, '1')]
    yield ['value', `bin as ${name}`, replaced(place, Buffer.from([1]))]
  }
  for (const [name, hex] of NO_TEXT) yield ['value', `str with ${name}`, replaced(str, raw(hex))]
  yield ['value', 'str too long by 1', replaced(str, 'a'.repeat(MAX_STRING + 1))]
  yield ['value', 'bin as a str', replaced(str, Buffer.from('abc'))]
  yield ['value', 'integer as a str', replaced(str, 1)]
  yield ['value', 'str as a bin', replaced(bin, 'abc')]
  yield ['value', 'integer as a bin', replaced(bin, 1)]
}

/** Faults of lists, which only the server takes. */
function* listRefusals(): Generator<Refusal> {
  const place: Place = [[...MACHINE, [], [], []], MACHINE.length]
  const range: Element[] = [0x4000_0000, 4096, '', 0]

  yield ['value', 'integer as a list', replaced(place, 0)]
  yield ['value', 'str as a list', replaced(place, '')]
  for (const [name, hex] of FOREIGN) yield ['value', `${name} as a list`, replaced(place, raw(hex))]
  yield ['value', 'integer as a record', replaced(place, [0])]
  for (const [name, hex] of FOREIGN) yield ['value', `${name} as a record`, replaced(place, [raw(hex)])]
  yield ['value', 'str as an integer of a record', replaced(place, [range.with(0, '')])]
  yield ['value', '2^53 as an integer of a record', replaced(place, [range.with(0, U53 + 1)])]
  yield ['value', 'NUL in a str of a record', replaced(place, [range.with(2, '\0')])]
  yield ['arity', 'empty record', replaced(place, [[]])]
  yield ['arity', 'record with an element too few', replaced(place, [range.slice(1)])]
  yield ['arity', 'record with an element too many', replaced(place, [range, [...range, 0]])]
  yield ['msgpack', 'list of 65535 records cut off', cut(place, 'dcffff')]
  yield ['msgpack', 'record cut off', cut(place, '9194')]
}

const refused = (to: InvalidVector['to'], list: Iterable<Refusal>): InvalidVector[] =>
  Array.from(list, ([error, name, hex]) => ({ name: `${to}: ${name}`, to, frame: hex, error }))

export const vectors = (): Vectors => ({
  note: 'Generated by generate.ts; README.md says how to use it.',
  valid: valid(),
  invalid: [...SAMPLES.flatMap(sample => refused(sample.to, refusals(sample))), ...refused('server', listRefusals())],
})
