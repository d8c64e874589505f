// SPDX-License-Identifier: Apache-2.0
/** What the API says of itself: valid documents that generators can use, true of the WebSocket, and a client in Python. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { text } from 'node:stream/consumers'
import asyncApiSchemas from '@asyncapi/specs'
import { Validator } from '@seriousme/openapi-schema-validator'
import { Ajv } from 'ajv'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { WebSocket } from 'ws'
import { openApi30 } from '../../../server/api/openApi30.ts'
import { contract } from '../../../server/api/schemas/contract.ts'
import { PREFIX } from '../../../server/api/schemas/request.ts'
import { STREAMS } from '../../../server/api/schemas/subscriptions.ts'
import { ARM_SMMU_CR0 } from '../../../server/smmu/registers.ts'
import { type Harness, startApp } from './harness.ts'

let server: Harness

beforeEach(async () => {
  server = await startApp()
})
afterEach(() => server.close())

interface Operation {
  readonly operationId: string
  readonly security?: readonly object[]
  readonly responses: Readonly<Record<string, { readonly description: string }>>
}

interface Document {
  readonly openapi: string
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
  readonly security?: readonly object[]
  readonly components: { readonly securitySchemes: object }
}

const get = async (name: string, from = server): Promise<unknown> =>
  (await fetch(`${from.url}${PREFIX}/${name}`, { headers: { authorization: `Bearer ${TOKEN}` } })).json()

const TOKEN = '0123456789abcdef0123456789abcdef'

const operationsOf = ({ paths }: Document): [string, Operation][] =>
  Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]): [string, Operation] => [`${method} ${path}`, operation]),
  )

describe.each([
  ['openapi.json', '3.1.0'],
  ['openapi-3.0.json', '3.0.3'],
])('%s', (name, version) => {
  test('is valid', async () => {
    const document = await get(name)
    expect(document).toMatchObject({ openapi: version, servers: [{ url: '/' }] })
    const { valid, errors } = await new Validator().validate(document as Record<string, unknown>)
    expect({ valid, errors }).toEqual({ valid: true, errors: undefined })
  })

  test('names each operation, the same for ever', async () => {
    const document = (await get(name)) as Document
    const ids = operationsOf(document).map(([, { operationId }]) => operationId)
    expect(new Set(ids).size).toBe(ids.length)
    for (const id of ids) expect(id).toMatch(/^[a-z]+([A-Z0-9][a-z0-9]*)*$/)
    const own = ['getHealth', 'getMetrics', 'getOpenApi', 'getOpenApi30', 'getAsyncApi']
    expect(ids.sort()).toEqual([...Object.values(contract).map(({ id }) => id), ...own].sort())
    for (const [place, { responses }] of operationsOf(document)) {
      for (const { description } of Object.values(responses)) expect(description, place).not.toBe('Default Response')
    }
  })

  test('asks for the token where the server does', async () => {
    const guarded = await startApp({ access: { host: '127.0.0.1', token: TOKEN } })
    try {
      const document = (await get(name, guarded)) as Document
      expect(document.components.securitySchemes).toEqual({ token: { type: 'http', scheme: 'bearer' } })
      expect(document.security).toEqual([{ token: [] }])
      for (const [place, { security }] of operationsOf(document)) {
        const path = place.split(' ')[1] ?? ''
        if (path.includes('{')) continue
        const { status } = await fetch(guarded.url + path, { method: place.split(' ')[0]?.toUpperCase() ?? '' })
        expect([place, status === 401]).toEqual([place, security === undefined])
      }
    } finally {
      await guarded.close()
    }
    expect(await get(name)).not.toHaveProperty('security')
  })
})

test.each([
  [
    'a type or null',
    { anyOf: [{ type: 'string', minLength: 1 }, { type: 'null' }] },
    { type: 'string', minLength: 1, nullable: true },
  ],
  [
    'a named type or null',
    { anyOf: [{ $ref: '#/components/schemas/A' }, { type: 'null' }], description: 'a' },
    { type: 'object', allOf: [{ $ref: '#/components/schemas/A' }], nullable: true, description: 'a' },
  ],
  [
    'one of several, or null',
    { anyOf: [{ type: 'string' }, { type: 'number' }, { type: 'null' }] },
    { anyOf: [{ type: 'string' }, { type: 'number' }], nullable: true },
  ],
  ['one value', { type: 'number', const: 1 }, { type: 'number', enum: [1] }],
  [
    'one of some values',
    {
      anyOf: [
        { type: 'number', const: 1 },
        { type: 'number', const: 2 },
      ],
    },
    { type: 'number', enum: [1, 2] },
  ],
  ['values without a type', { enum: ['a', 'b'] }, { type: 'string', enum: ['a', 'b'] }],
  ['examples', { type: 'string', examples: ['0x1', '0x2'] }, { type: 'string', example: '0x1' }],
  [
    'a map',
    { type: 'object', patternProperties: { '^.*$': { const: 1, type: 'number' } } },
    { type: 'object', additionalProperties: { type: 'number', enum: [1] } },
  ],
  [
    'properties that are called as keywords are',
    { type: 'object', properties: { type: { type: 'string' }, enum: { type: 'number' }, const: { type: 'boolean' } } },
    { type: 'object', properties: { type: { type: 'string' }, enum: { type: 'number' }, const: { type: 'boolean' } } },
  ],
])('in 3.0: %s', (_what, schema, expected) => {
  expect(openApi30({ openapi: '3.1.0', components: { schemas: { S: schema } } })).toEqual({
    openapi: '3.0.3',
    components: { schemas: { S: expected } },
  })
})

interface AsyncDocument {
  readonly asyncapi: keyof typeof asyncApiSchemas.schemas
  readonly channels: { readonly stream: { readonly address: string; readonly messages: object } }
  readonly components: { readonly messages: Readonly<Record<string, { readonly payload: object }>> }
}

/** A message has nothing that its schema does not name. */
const closed = (_key: string, value: unknown): unknown =>
  typeof value === 'object' && value !== null && 'properties' in value && 'type' in value && value.type === 'object'
    ? { additionalProperties: false, ...value }
    : value

describe('asyncapi.json', () => {
  test('is valid', async () => {
    const document = (await get('asyncapi.json')) as AsyncDocument
    const ajv = new Ajv({ strict: false, validateFormats: false })
    const validate = ajv.compile(asyncApiSchemas.schemasWithoutId[document.asyncapi] as object)
    expect([validate(document), validate.errors]).toEqual([true, null])
    expect(document.channels.stream.address).toBe(`${PREFIX}/stream`)
    expect(validate({ ...document, channels: 5 })).toBe(false)
  })

  test('says of each message what it is, both ways', async () => {
    const document = JSON.parse(JSON.stringify(await get('asyncapi.json')), closed) as AsyncDocument
    const ajv = new Ajv2020({ strict: false, validateFormats: false })
    ajv.addSchema({ components: document.components }, 'api')
    const is = (name: string, message: unknown) => {
      const validate = ajv.getSchema(`api#/components/messages/${name}/payload`)
      expect([name, message, validate?.(message), validate?.errors]).toEqual([name, message, true, null])
    }
    const socket = new WebSocket(`${server.url.replace('http', 'ws')}${PREFIX}/stream`)
    const seen = new Map<string, unknown[]>()
    socket.on('message', data => {
      const message = JSON.parse(String(data)) as { type: string }
      seen.set(message.type, [...(seen.get(message.type) ?? []), message])
    })
    await once(socket, 'open')
    const say = (message: { readonly type: string }) => {
      is(message.type, message)
      socket.send(JSON.stringify(message))
    }
    // 16 subscriptions are allowed, and more than one of a stream.
    for (const stream of STREAMS)
      say({
        type: 'subscribe',
        id: stream,
        stream,
        last: 100,
        ...(stream === 'traps' && { filter: { minUs: 0 } }),
      } as never)
    say({ type: 'unsubscribe', id: 'none' } as never)
    socket.send('{"type":"nonsense"}')
    await server.qemu.write(ARM_SMMU_CR0, 4, 5)
    server.qemu.event(0x10, 8)
    server.say('hello\n')
    await server.qemu.read(ARM_SMMU_CR0, 4)
    await server.settle()
    const items = () => (seen.get('items') ?? []) as { readonly id: string }[]
    await expect
      .poll(() => new Set(items().map(({ id }) => id)))
      .toEqual(new Set(['traps', 'events', 'console', 'counters', 'machine', 'attacks', 'attack']))
    await expect.poll(() => [...seen.keys()].sort()).toEqual(['error', 'hello', 'items', 'subscribed'])
    for (const [type, messages] of seen) for (const message of messages) is(type, message)
    expect(ajv.getSchema('api#/components/messages/hello/payload')?.({ type: 'hello' })).toBe(false)
    socket.close()
  })
})

test('the program in Python', async () => {
  const readme = readFileSync(new URL('../../../server/api/README.md', import.meta.url), 'utf8')
  const [, program = ''] = /```python\n(.*?)```/s.exec(readme) ?? []
  const child = spawn('python3', ['-c', program], { env: { ...process.env, SMMU_COSIM_URL: server.url } })
  const output = Promise.all([text(child.stdout), text(child.stderr)])
  const armed = async () => ((await get('breakpoints')) as readonly unknown[]).length
  await expect.poll(armed).toBe(1)
  const ended = once(child, 'close') as Promise<[number]>
  // A program that ends early would never let the write go on.
  await Promise.race([server.qemu.write(ARM_SMMU_CR0, 4, 4).then(() => server.qemu.write(ARM_SMMU_CR0, 4, 5)), ended])
  const [code] = await ended
  const [out, err] = await output
  expect({ code, err, out: out.trimEnd().split('\n') }).toEqual({
    code: 0,
    err: '',
    out: ['trap 1: CR0 0x4, GBPA of the hardware 0x0', 'trap 2: CR0 0x5, GBPA of the hardware 0x0'],
  })
  expect(await armed()).toBe(0)
})
