// SPDX-License-Identifier: Apache-2.0
/** The TypeScript codec: interfaces, one decoder for each end, one encoder for each message. Laid out as Biome does. */
import type { Field, Message } from '../messages.ts'
import { arity, limit, messageArity, messageList, pascal, recordFields, recordList, wrap } from './wire.ts'

const WIDTH = 120

/** The message `error` would be named like the global class. */
const typeName = (name: string): string => (name === 'error' ? 'PeerError' : pascal(name))

const hexLimit = (value: number): string =>
  value === Number.MAX_SAFE_INTEGER
    ? 'Number.MAX_SAFE_INTEGER'
    : value < 0xff
      ? String(value)
      : `0x${value.toString(16)}`

/** What a field is in TypeScript: one property, or the two halves of a u64. */
interface Property {
  readonly name: string
  readonly type: string
  readonly doc: string
  /** Expression that reads it from the cursor `c`. */
  readonly read: string
  /** Statement that writes it to the FrameWriter `out`, given the expression of its value. */
  readonly write: (value: string) => string
}

function properties(owner: string, field: Field): Property[] {
  const { name, type, doc } = field
  if (typeof type === 'object') {
    const record = pascal(type.list)
    const args = `${arity(recordFields(type.list))}, '${name}'`
    return [
      {
        name,
        doc,
        type: `readonly ${record}[]`,
        read: `c.list(${args}, decode${record})`,
        write: value => `out.list(${value}, ${args}, encode${record})`,
      },
    ]
  }
  const label = owner + name
  if (type === 'str') {
    const args = `'${label}'`
    return [{ name, doc, type: 'string', read: `c.str(${args})`, write: value => `out.str(${value}, ${args})` }]
  }
  const args = `${hexLimit(limit(field))}, '${label}'`
  if (type === 'bin') {
    return [{ name, doc, type: 'Uint8Array', read: `c.bin(${args})`, write: value => `out.bin(${value}, ${args})` }]
  }
  if (type === 'u64') {
    return ['Hi', 'Lo'].flatMap(half =>
      properties(owner, { name: name + half, type: 'u32', doc: `${doc}; ${half === 'Hi' ? 'high' : 'low'} 32 bits` }),
    )
  }
  const read = type === 'u32' || type === 'u53' ? `c.${type}(${args})[0]` : `c.uint(${args})`
  const write = type === 'u53' ? 'u53' : 'uint'
  return [{ name, doc, type: 'number', read, write: value => `out.${write}(${value}, ${args})` }]
}

const messageProperties = ({ fields }: Message): Property[] => fields.flatMap(field => properties('', field))

/** A signature, its parameters one a line where they do not fit. */
function signature(head: string, params: readonly string[], tail: string): string {
  const line = `${head}(${params.join(', ')})${tail}`
  return line.length <= WIDTH ? line : `${head}(\n${params.map(param => `  ${param},\n`).join('')})${tail}`
}

function doc(text: string, indent = ''): string {
  const line = `${indent}/** ${text} */`
  if (line.length <= WIDTH) return line
  const lines = wrap(text, WIDTH - indent.length - 3)
  return [`${indent}/**`, ...lines.map(part => `${indent} * ${part}`), `${indent} */`].join('\n')
}

function members(list: readonly Property[]): string[] {
  return list.flatMap(property => [doc(property.doc, '  '), `  readonly ${property.name}: ${property.type}`])
}

function messageInterface(name: string, message: Message): string {
  return [
    doc(message.doc),
    `export interface ${typeName(name)} {`,
    `  readonly type: typeof Id.${name}`,
    '  readonly seq: number',
    ...members(messageProperties(message)),
    '}',
  ].join('\n')
}

const literal = (lines: readonly string[], tail = ''): string =>
  `return {\n${lines.map(line => `    ${line},\n`).join('')}  }${tail}`

function decoder(name: string, message: Message): string {
  const list = messageProperties(message)
  const type = typeName(name)
  if (message.hot === true) {
    return [
      `function decode${type}(c: Cursor, m: Mutable<${type}>): ${type} {`,
      '  m.seq = c.seq',
      ...list.map(property => `  m.${property.name} = ${property.read}`),
      '  return m',
      '}',
    ].join('\n')
  }
  if (list.length === 0) return `const decode${type} = (c: Cursor): ${type} => ({ type: Id.${name}, seq: c.seq })`
  const lines = [`type: Id.${name}`, 'seq: c.seq', ...list.map(property => `${property.name}: ${property.read}`)]
  return `function decode${type}(c: Cursor): ${type} {\n  ${literal(lines)}\n}`
}

/** The preallocated object of a hot message. */
function slot(name: string, message: Message): string {
  const values = ['seq', ...messageProperties(message).map(property => property.name)].map(key => `${key}: 0`)
  const line = `  readonly #${name}: Mutable<${typeName(name)}> = { type: Id.${name}, ${values.join(', ')} }`
  if (line.length <= WIDTH) return line
  const lines = [`type: Id.${name}`, ...values].map(value => `    ${value},\n`).join('')
  return `  readonly #${name}: Mutable<${typeName(name)}> = {\n${lines}  }`
}

const hasList = ({ fields }: Message): boolean => fields.some(({ type }) => typeof type === 'object')

function encoder(name: string, message: Message): string {
  const list = messageProperties(message)
  const params = ['out: FrameWriter', 'seq: number']
  const object = hasList(message)
  if (object) params.push(`fields: Omit<${typeName(name)}, 'type' | 'seq'>`)
  else params.push(...list.map(property => `${property.name}: ${property.type}`))
  return [
    signature(`export function encode${pascal(name)}`, params, ': void {'),
    `  out.begin('${name}', Id.${name}, ${messageArity(message)}, seq)`,
    ...list.map(property => `  ${property.write(object ? `fields.${property.name}` : property.name)}`),
    '  out.end()',
    '}',
  ].join('\n')
}

/** A call with its arguments one a line where they do not fit. */
function encoderCall(name: string, message: Message): string {
  const fields = hasList(message) ? ['m'] : messageProperties(message).map(property => `m.${property.name}`)
  const args = ['out', 'm.seq', ...fields]
  const line = `      encode${pascal(name)}(${args.join(', ')})`
  if (line.length <= WIDTH) return line
  return `      encode${pascal(name)}(\n${args.map(arg => `        ${arg},\n`).join('')}      )`
}

function record(name: string, fields: readonly Field[]): string {
  const list = fields.flatMap(field => properties(`${name}.`, field))
  const type = pascal(name)
  return [
    `export interface ${type} {`,
    ...members(list),
    '}',
    '',
    `function decode${type}(c: Cursor): ${type} {`,
    `  ${literal(list.map(property => `${property.name}: ${property.read}`))}`,
    '}',
    '',
    `function encode${type}(out: FrameWriter, record: ${type}): void {`,
    ...list.map(property => `  ${property.write(`record.${property.name}`)}`),
    '}',
  ].join('\n')
}

const union = (name: string, types: readonly string[]): string =>
  `export type ${name} =\n${types.map(type => `  | ${type}`).join('\n')}`

const shapes = (name: string, list: readonly (readonly [string, Message])[]): string =>
  [
    `const ${name}: (Shape | undefined)[] = []`,
    ...list.map(([key, message]) => `${name}[Id.${key}] = { name: '${key}', arity: ${messageArity(message)} }`),
  ].join('\n')

/** Text of generated/messages.ts. */
export function codec(): string {
  const fromQemu = messageList.filter(([, { from }]) => from !== 'server')
  const fromServer = messageList.filter(([, { from }]) => from !== 'qemu')
  const hot = messageList.filter(([, message]) => message.hot === true)
  const parts = [
    `// SPDX-License-Identifier: Apache-2.0
/** Generated from ../messages.ts; do not edit. What the messages mean is said in ../README.md. */
import { Cursor, type Shape } from '../cursor.ts'
import type { FrameWriter } from '../framing.ts'`,
    `/** Id of each message; the \`type\` of its object. */
export const Id = {
${messageList.map(([name, { id }]) => `  ${name}: ${id},`).join('\n')}
} as const`,
    ...recordList.map(([name, fields]) => record(name, fields)),
    ...messageList.map(([name, message]) => messageInterface(name, message)),
    union(
      'MessageFromQemu',
      fromQemu.map(([name]) => typeName(name)),
    ),
    union(
      'MessageFromServer',
      fromServer.map(([name]) => typeName(name)),
    ),
    'export type Message = MessageFromQemu | MessageFromServer',
    `/** What each end receives. */
export interface Received {
  server: MessageFromQemu
  qemu: MessageFromServer
}`,
    'type Mutable<T> = { -readonly [K in keyof T]: T[K] }',
    shapes('FROM_QEMU', fromQemu),
    shapes('FROM_SERVER', fromServer),
    ...messageList.map(([name, message]) => decoder(name, message)),
    `${doc(`Decodes what one end receives. A hot message (${hot.map(([name]) => name).join(', ')}) is decoded into an object \
that the next message of its type overwrites: copy what must live longer. All others are new objects that own what they \
hold.`)}
export class Decoder<End extends keyof Received> {
  readonly #shapes: readonly (Shape | undefined)[]
  readonly #cursor = new Cursor()
${hot.map(([name, message]) => slot(name, message)).join('\n')}

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

  /** @param id of \`#shapes\` */
  #message(id: number): Message {
    const c = this.#cursor
    switch (id) {
${messageList
  .map(
    ([name, message]) =>
      `      case Id.${name}:\n        return decode${typeName(name)}(c${message.hot === true ? `, this.#${name}` : ''})`,
  )
  .join('\n')}
      default:
        throw new RangeError(\`message \${id} has no decoder\`)
    }
  }
}`,
    ...messageList.map(([name, message]) => encoder(name, message)),
    `/** Encodes a message given as an object, for those who do not know its type beforehand. */
export function encode(out: FrameWriter, m: Message): void {
  switch (m.type) {
${messageList.map(([name, message]) => `    case Id.${name}:\n${encoderCall(name, message)}\n      break`).join('\n')}
  }
}`,
  ]
  return `${parts.join('\n\n')}\n`
}
