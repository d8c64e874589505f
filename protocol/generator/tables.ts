// SPDX-License-Identifier: Apache-2.0
/** The generated parts of README.md, each between `<!-- generated: NAME -->` and `<!-- end -->`. */
import type { Field, Message } from '../messages.ts'
import {
  MAX_BYTES,
  MAX_CHECKPOINT,
  MAX_FRAME,
  MAX_FRAMES,
  MAX_LIST,
  MAX_STRING,
  messages,
  TOKEN_BYTES,
  VERSION,
} from '../messages.ts'
import { framed, pack, Raw } from './pack.ts'
import { type Fields, messageElements, type Value } from './vectors.ts'
import { arity, enumList, messageArity, messageList, recordFields, recordList } from './wire.ts'

/** A table with aligned columns. */
function table(head: readonly string[], rows: readonly (readonly (string | number)[])[]): string {
  const cells = [head, ...rows].map(row => row.map(String))
  const widths = head.map((_, column) => Math.max(3, ...cells.map(row => row[column].length)))
  const line = (row: readonly string[]): string => `| ${row.map((cell, i) => cell.padEnd(widths[i])).join(' | ')} |`
  const [first, ...others] = cells.map(line)
  return [first, line(widths.map(width => '-'.repeat(width))), ...others].join('\n')
}

const number = (value: number): string => value.toLocaleString('en-US')

const limits = (): string =>
  table(
    ['name', 'value', 'what it limits'],
    [
      ['`MAX_FRAME`', number(MAX_FRAME), 'bytes of a payload'],
      ['`MAX_BYTES`', number(MAX_BYTES), 'bytes of one `memRead`, `memWrite` or `data`'],
      ['`MAX_CHECKPOINT`', number(MAX_CHECKPOINT), 'bytes of a checkpoint'],
      ['`MAX_STRING`', number(MAX_STRING), 'bytes of a str in UTF-8'],
      ['`MAX_LIST`', number(MAX_LIST), 'records of a list'],
      ['`MAX_FRAMES`', number(MAX_FRAMES), 'return addresses of a call stack'],
      ['`TOKEN_BYTES`', number(TOKEN_BYTES), 'bytes of a nonce, and of an HMAC-SHA256'],
      ['`VERSION`', `${VERSION.min} to ${VERSION.max}`, 'protocol versions that this tree speaks'],
    ],
  )

const senders = { qemu: 'QEMU', server: 'server', both: 'both' }

const overview = (): string =>
  table(
    ['id', 'message', 'from', 'kind', 'what it says'],
    messageList.map(([name, { id, from, kind, answer, doc }]) => [
      id,
      `[\`${name}\`](#message-${name.toLowerCase()})`,
      senders[from],
      answer === undefined ? kind : `request, answered by \`${answer}\``,
      doc,
    ]),
  )

function typeName({ type, max }: Field): string {
  if (typeof type === 'object') return `list of [\`${type.list}\`](#record-${type.list.toLowerCase()})`
  return max === undefined ? type : `${type} ≤ ${number(max)}`
}

function fieldTable(fields: readonly Field[], first: number): string {
  let index = first
  const rows = fields.map(field => {
    const at = index
    index += arity([field])
    return [index - at === 2 ? `${at}, ${at + 1}` : at, `\`${field.name}\``, typeName(field), field.doc]
  })
  return table(['element', 'field', 'type', 'what it says'], rows)
}

const messageTable = ([name, message]: readonly [string, Message]): string =>
  [
    `#### Message ${name}`,
    `${messageArity(message)} elements; element 0 is ${message.id}, element 1 the sequence number${
      message.fields.length === 0 ? '.' : ':'
    }`,
    ...(message.fields.length === 0 ? [] : [fieldTable(message.fields, 2)]),
  ].join('\n\n')

const recordTable = ([name, fields]: readonly [string, readonly Field[]]): string =>
  [`#### Record ${name}`, `${arity(fields)} elements:`, fieldTable(fields, 0)].join('\n\n')

const enumTable = ([name, values]: (typeof enumList)[number]): string =>
  [
    `#### Values of ${name}`,
    table(
      ['value', 'name', 'meaning'],
      values.map(([key, value, doc]) => [value, `\`${key}\``, doc]),
    ),
  ].join('\n\n')

/** Bytes in hex, as many a line as fit before the remark. */
const COLUMNS = 9

function dump(bytes: Uint8Array, remark: string): string[] {
  const lines: string[] = []
  for (let at = 0; at < bytes.length; at += COLUMNS) {
    const hex = Buffer.from(bytes.subarray(at, at + COLUMNS))
      .toString('hex')
      .replace(/..(?=.)/g, '$& ')
    lines.push(at === 0 ? `${hex.padEnd(3 * COLUMNS)}# ${remark}` : hex)
  }
  return lines
}

/** The first bytes of an array. */
const arrayHead = (length: number): Buffer => pack(Array<Raw>(length).fill(new Raw('')))

/** Each element of these fields with what it is. */
function dumpFields(fields: readonly Field[], values: Fields, indent: string): string[] {
  return fields.flatMap(field => {
    const { name, type } = field
    const value = values[name]
    if (typeof type === 'object') {
      const list = value as readonly Fields[]
      const record = recordFields(type.list)
      return [
        ...dump(arrayHead(list.length), `${indent}${name}: list of ${list.length}`),
        ...list.flatMap(item => [
          ...dump(arrayHead(arity(record)), `${indent}  ${type.list}: ${arity(record)} elements`),
          ...dumpFields(record, item, `${indent}    `),
        ]),
      ]
    }
    const elements = messageElements({ ...messages.hold, fields: [field] }, 1, values).slice(2)
    return dump(Buffer.concat(elements.map(element => pack(element))), `${indent}${name}: ${show(field, value)}`)
  })
}

function show({ type }: Field, value: Value): string {
  if (type === 'str') return JSON.stringify(value)
  if (type === 'bin') return value === '' ? 'no bytes' : String(value)
  if (type === 'u64') return `${value}, high and low half`
  return typeof value === 'number' && value > 9 ? `${value} (0x${value.toString(16)})` : String(value)
}

interface Example {
  readonly message: keyof typeof messages
  readonly seq: number
  readonly fields: Fields
  /** Sentence in front of it. */
  readonly text: string
}

const EXAMPLES: readonly Example[] = [
  {
    text: 'QEMU introduces a machine with 1 GiB of RAM, the last 64 MiB of which are for the hypervisor:',
    message: 'hello',
    seq: 1,
    fields: {
      minVersion: 1,
      maxVersion: 1,
      features: 3,
      session: '',
      resumed: 0,
      lastSeq: 0,
      checkpoint: '',
      qemuVersion: '10.0.13',
      vcpus: 2,
      carveoutBase: 0x7c00_0000,
      carveoutSize: 0x400_0000,
      ram: [{ base: 0x4000_0000, size: 0x4000_0000, path: '/dev/shm/guest/ram', offset: 0 }],
      smmus: [{ base: 0x905_0000, size: 0x2_0000, irqEvtq: 74, irqPriq: 75, irqCmdSync: 76, irqGerror: 77 }],
      devices: [{ smmu: 0, sid: 8, name: 'disk0', model: 'virtio-blk-pci' }],
    },
  },
  { text: 'The server takes it:', message: 'welcome', seq: 1, fields: { version: 1, features: 3, session: 'a1' } },
  {
    text: 'All devices are in reset state:',
    message: 'reset',
    seq: 2,
    fields: { cause: 0, time: 0 },
  },
  {
    text: 'So is the hypervisor; the vCPUs start:',
    message: 'reply',
    seq: 2,
    fields: { status: 0, value: '0x0000000000000000' },
  },
  {
    text: 'Linux writes 2 to CMDQ_PROD:',
    message: 'trapWrite',
    seq: 3,
    fields: {
      smmu: 0,
      cpu: 1,
      offset: 0x98,
      size: 4,
      time: 5_600_000_123,
      pc: '0xffff800080a1b2c4',
      lastTrapNs: 0,
      value: '0x0000000000000002',
    },
  },
  {
    text: 'The server has filtered the commands into its own queue, and starts the model on that one. QEMU serves this while its vCPU waits:',
    message: 'hwWrite',
    seq: 1,
    fields: { smmu: 0, offset: 0x98, size: 4, value: '0x0000000000000002' },
  },
  {
    text: 'The model has consumed the commands:',
    message: 'done',
    seq: 1,
    fields: { status: 0, value: '0x0000000000000000' },
  },
  {
    text: 'The server lets QEMU keep its state, with the answer that it is about to give:',
    message: 'checkpoint',
    seq: 2,
    fields: { bytes: '0300000002000000' },
  },
  {
    text: 'And the write is over; Linux goes on:',
    message: 'reply',
    seq: 3,
    fields: { status: 0, value: '0x0000000000000000' },
  },
  {
    text: 'Linux powers off:',
    message: 'shutdown',
    seq: 4,
    fields: { cause: 0, time: 9_000_000_000, lastTrapNs: 9200 },
  },
]

function example({ message, seq, fields, text }: Example): string {
  const definition: Message = messages[message]
  const payload = pack(messageElements(definition, seq, fields))
  const lines = [
    ...dump(Buffer.from(framed(payload), 'hex').subarray(0, 4), `length: ${payload.length}`),
    ...dump(arrayHead(messageArity(definition)), `array of ${messageArity(definition)} elements`),
    ...dump(pack(definition.id), message),
    ...dump(pack(seq), `seq: ${seq}`),
    ...dumpFields(definition.fields, fields, ''),
  ]
  return [text, `\`\`\`frame ${definition.from} ${message}\n${lines.join('\n')}\n\`\`\``].join('\n\n')
}

const parts: Readonly<Record<string, () => string>> = {
  limits,
  messages: overview,
  fields: () => messageList.map(messageTable).join('\n\n'),
  records: () => recordList.map(recordTable).join('\n\n'),
  values: () => enumList.map(enumTable).join('\n\n'),
  examples: () => EXAMPLES.map(example).join('\n\n'),
}

/** @returns README.md with its generated parts brought up to date */
export const readme = (text: string): string =>
  text.replace(
    /(<!-- generated: (\w+) -->\n)[\s\S]*?(<!-- end -->)/g,
    (_, start: string, name: string, end: string) => {
      const part = parts[name]
      if (part === undefined) throw new Error(`README.md: nothing is generated under the name ${name}`)
      return `${start}\n${part()}\n\n${end}`
    },
  )
