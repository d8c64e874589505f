// SPDX-License-Identifier: Apache-2.0
/** Every answer is what the OpenAPI document says; what no request may do is in test/fuzz/targets/api.ts. */
import { join } from 'node:path'
import { Ajv2020 } from 'ajv/dist/2020.js'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { Inspection } from '../../../server/api/inspection.ts'
import { ARM_SMMU_CR0, ARM_SMMU_GBPA } from '../../../server/smmu/registers.ts'
import { campaignFile } from '../sessions/campaignFile.ts'
import { type Harness, startApp } from './harness.ts'

interface Operation {
  readonly parameters?: readonly { readonly name: string; readonly in: string; readonly schema: object }[]
  readonly requestBody?: object
  readonly responses: Readonly<
    Record<string, { readonly content?: Readonly<Record<string, { readonly schema: object }>> }>
  >
}

interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
}

/** An answer has nothing that its schema does not name. */
const closed = (_key: string, value: unknown): unknown =>
  typeof value === 'object' && value !== null && 'properties' in value && 'type' in value && value.type === 'object'
    ? { additionalProperties: false, ...value }
    : value

let server: Harness
let document: Document
const ajv = new Ajv2020({ strict: false, validateFormats: false })

beforeAll(async () => {
  server = await startApp()
  campaignFile(join(server.folder, 'campaigns.db'))
  document = (await (await fetch(`${server.url}/api/v1/openapi.json`)).json()) as Document
  ajv.addSchema(JSON.parse(JSON.stringify(document), closed) as object, 'api')
  await server.qemu.write(ARM_SMMU_GBPA, 4, 5)
  await server.qemu.read(ARM_SMMU_GBPA, 4)
  server.qemu.event(0x10, 8)
  server.say('hello from the guest\n')
  // After the event on the same socket.
  await server.qemu.read(ARM_SMMU_CR0, 1)
  await server.settle()
})

afterAll(() => server.close())

const pointer = (text: string) =>
  text.replaceAll('~', '~0').replaceAll('/', '~1').replaceAll('{', '%7B').replaceAll('}', '%7D')

/** Path of the document for a URL. */
function templateOf(path: string): string {
  const templates = Object.keys(document.paths).sort((a, b) => a.split('{').length - b.split('{').length)
  const found = templates.find(template => new RegExp(`^${template.replace(/\{\w+\}/g, '[^/]+')}$`).test(path))
  if (found === undefined) throw new Error(`${path} is not in the document`)
  return found
}

async function check(method: string, url: string, body?: unknown): Promise<{ status: number; json: unknown }> {
  const response = await fetch(server.url + url, {
    method,
    ...(body !== undefined && { body: JSON.stringify(body), headers: { 'content-type': 'application/json' } }),
  })
  const template = templateOf(new URL(url, server.url).pathname)
  const operation = document.paths[template]?.[method.toLowerCase()]
  const type = (response.headers.get('content-type') ?? '').split(';')[0] ?? ''
  const text = await response.text()
  const answer = operation?.responses[String(response.status)]
  expect(answer, `${method} ${url}: ${response.status} is not in the document: ${text}`).toBeDefined()
  if (!/json/.test(type)) return { status: response.status, json: text }
  const json: unknown = JSON.parse(text)
  if (answer?.content?.[type] !== undefined) {
    const ref = `api#/paths/${pointer(template)}/${method.toLowerCase()}/responses/${response.status}/content/${pointer(type)}/schema`
    const validate = ajv.getSchema(ref)
    expect(validate, ref).toBeDefined()
    expect(validate?.(json), `${method} ${url}: ${JSON.stringify(validate?.errors)}`).toBe(true)
  }
  return { status: response.status, json }
}

describe('answers are as documented', () => {
  test.each([
    ['GET', '/health', 200],
    ['GET', '/metrics', 200],
    ['GET', '/api/v1/info', 200],
    ['GET', '/api/v1/machine', 200],
    ['GET', '/api/v1/counters', 200],
    ['GET', '/api/v1/machine/console', 200],
    ['GET', '/api/v1/traps', 200],
    ['GET', '/api/v1/traps?registers=GBPA,0x20&access=write&limit=1', 200],
    ['GET', '/api/v1/traps?after=0&limit=1', 200],
    ['GET', '/api/v1/traps/2', 200],
    ['GET', '/api/v1/traps/999999', 404],
    ['GET', '/api/v1/traps/numbered/1', 200],
    ['GET', '/api/v1/traps/numbered/999999', 404],
    ['GET', '/api/v1/events', 200],
    ['GET', '/api/v1/warnings', 200],
    ['GET', '/api/v1/trace', 200],
    ['GET', '/api/v1/smmus/0/registers', 200],
    ['GET', '/api/v1/smmus/0/queues', 200],
    ['GET', '/api/v1/smmus/7/queues', 404],
    // It was not started with SMMUs that are to be switched.
    ['GET', '/api/v1/smmus/0/power', 409],
    // The fake's ID registers say nothing that the walker knows.
    ['GET', '/api/v1/smmus/0/streams', 409],
    ['GET', '/api/v1/smmus/0/walk?sid=8&iova=0x1000', 409],
    ['GET', '/api/v1/memory/bytes?address=0x40000000&length=64', 200],
    ['GET', '/api/v1/memory/bytes?address=0x1000', 422],
    ['GET', '/api/v1/memory/ownership', 409],
    ['GET', '/api/v1/memory/el2', 200],
    ['GET', '/api/v1/memory/oracle', 200],
    ['GET', '/api/v1/memory/attacks', 200],
    ['GET', '/api/v1/breakpoints', 200],
    ['GET', '/api/v1/held', 200],
    ['GET', '/api/v1/faults/catalogue', 200],
    ['GET', '/api/v1/faults', 200],
    ['GET', '/api/v1/faults/effect', 200],
    ['GET', '/api/v1/attack', 200],
    ['GET', '/api/v1/attack/findings/1', 404],
    ['GET', '/api/v1/attack/findings/0', 400],
    ['POST', '/api/v1/attack/stop', 409],
    ['GET', '/api/v1/campaigns', 200],
    ['GET', '/api/v1/campaigns/2', 200],
    ['GET', '/api/v1/campaigns/9', 404],
    ['GET', '/api/v1/campaigns/0', 400],
    ['GET', '/api/v1/campaigns/1/compare/2', 200],
    ['GET', '/api/v1/campaigns/1/compare/9', 404],
    ['DELETE', '/api/v1/breakpoints/77', 404],
  ])('%s %s', async (method, url, status) => {
    expect((await check(method, url)).status).toBe(status)
  })

  test.each([
    ['/api/v1/machine/start', {}, 409],
    ['/api/v1/machine/start', { policy: '../../etc/passwd' }, 400],
    ['/api/v1/machine/start', { qemuArgs: ['-monitor', 'stdio'] }, 400],
    ['/api/v1/machine/start', { append: 'a; rm -rf $(HOME)' }, 400],
    ['/api/v1/machine/qmp', { command: 'quit' }, 400],
    ['/api/v1/machine/qmp', { command: 'query-status' }, 409],
    ['/api/v1/machine/console', { text: 'ls\n' }, 204],
    ['/api/v1/memory/donate', { base: '0x40000000', size: 4096, vm: 1 }, 409],
    ['/api/v1/memory/donate', { base: '0x40000000', size: 100, vm: 1 }, 400],
    ['/api/v1/breakpoints', { on: 'register', register: 'CR0', access: 'write', value: '0x1', mask: '0xf' }, 201],
    ['/api/v1/breakpoints', { on: 'register', register: 'NONE' }, 422],
    ['/api/v1/breakpoints', { on: 'stream' }, 422],
    ['/api/v1/held/release', { action: 'continue' }, 409],
    ['/api/v1/attack', { policy: '../../etc/passwd' }, 400],
    ['/api/v1/attack', { hardware: ['steam'] }, 400],
    ['/api/v1/attack', { seconds: 0 }, 400],
    ['/api/v1/attack', { stage2: 'shared', populate: 'stall' }, 400],
    ['/api/v1/attack', { stage2: 'shared', blocks: true }, 422],
    ['/api/v1/attack', { corpus: '/tmp' }, 400],
    ['/api/v1/attack', { quirks: ['nobody'] }, 422],
    ['/api/v1/attack', { policy: 'own' }, 422],
  ])('POST %s %j', async (url, body, status) => {
    expect((await check('POST', url, body)).status).toBe(status)
  })

  test('what the oracle of isolation has found', async () => {
    const stream = { smmu: 0, sid: 16, device: 'virtio-blk' }
    const violation = { kind: 'tables: stage 2', message: 'it maps', page: '0x40000000', stream, walk: ['STRTAB_BASE'] }
    const found = { samples: 7, wholes: 2, hypervisorPages: 3, vmPages: 1, violations: [violation], more: 4 }
    const sampleUs = { p50: 1, p90: 2, p99: 3, max: 4 }
    const spy = vi.spyOn(Inspection.prototype, 'oracle').mockResolvedValue({ ...found, sampleUs })
    const { json } = await check('GET', '/api/v1/memory/oracle')
    expect(json).toEqual({ ...found, sampleUs, unjudged: null })
    spy.mockResolvedValue({ ...found, violations: [], more: 0, sampleUs, unjudged: 'the policy does not isolate' })
    expect((await check('GET', '/api/v1/memory/oracle')).json).toMatchObject({
      unjudged: 'the policy does not isolate',
    })
    spy.mockRestore()
    expect((await check('GET', '/api/v1/memory/oracle')).json).toBeNull()
  })

  test('every problem is problem+json with the fields that were wrong', async () => {
    const response = await fetch(`${server.url}/api/v1/breakpoints`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"on": 5}',
    })
    expect(response.headers.get('content-type')).toMatch('application/problem+json')
    expect(await response.json()).toMatchObject({ type: 'about:blank', status: 400, errors: [{ path: 'body/on' }] })
    const nothing = await fetch(`${server.url}/api/v1/nothing`)
    expect(nothing.headers.get('content-type')).toMatch('application/problem+json')
    expect(nothing.status).toBe(404)
  })

  test('every route has a summary, a tag and answers', () => {
    for (const [path, methods] of Object.entries(document.paths)) {
      for (const [method, operation] of Object.entries(methods)) {
        expect(operation, `${method} ${path}`).toMatchObject({
          summary: expect.any(String),
          tags: [expect.any(String)],
        })
        expect(Object.keys(operation.responses).length, `${method} ${path}`).toBeGreaterThan(0)
      }
    }
  })
})

test('the trap log: rows, filters, neighbours', async () => {
  const rows = await check('GET', '/api/v1/traps?registers=GBPA')
  const { items } = rows.json as { items: { id: number; write: boolean; value: string; text: string }[] }
  expect(items).toMatchObject([
    { write: true, value: '0x5', register: 'GBPA' },
    { write: false, value: '0x5' },
  ])
  const { json } = await check('GET', `/api/v1/traps/${items[1]?.id}`)
  expect(json).toMatchObject({ previous: { id: items[0]?.id }, children: [{ kind: 'hardware' }] })
  const events = await check('GET', '/api/v1/events')
  expect(events.json).toMatchObject({ items: [{ name: 'F_TRANSLATION', sid: 8 }] })
})

test('a breakpoint holds the trap, which can be changed and goes on', async () => {
  const point = { on: 'register', register: 'GBPA', access: 'write', once: true }
  const { json } = await check('POST', '/api/v1/breakpoints', point)
  expect(json).toMatchObject({ text: 'write of GBPA' })
  const answer = server.qemu.write(ARM_SMMU_GBPA, 4, 1)
  while (server.manager.status().state !== 'held') await new Promise(resolve => setTimeout(resolve, 5))
  expect((await check('GET', '/api/v1/held')).json).toMatchObject({ trap: { offset: ARM_SMMU_GBPA, lo: 1 } })
  expect((await check('POST', '/api/v1/machine/pause')).status).toBe(409)
  expect((await check('GET', '/api/v1/smmus/0/registers')).status).toBe(200)
  expect((await check('POST', '/api/v1/held/release', { action: 'continue', value: '0x9' })).status).toBe(204)
  await answer
  expect(server.qemu.registers.get(ARM_SMMU_GBPA)).toBe(9)
})

test('the row of a trap by its number, behind other rows and before the first', async () => {
  const { json } = await check('GET', '/api/v1/traps?kinds=trap,request')
  const { items } = json as { items: { id: number; kind: string; seq?: number }[] }
  const traps = items.filter(({ kind }) => kind === 'trap')
  expect(traps.length).toBeGreaterThan(2)
  for (const { id, seq } of traps)
    expect((await check('GET', `/api/v1/traps/numbered/${seq}`)).json).toMatchObject({ id })
})

describe('faults', () => {
  const text = (...lines: string[]) => ({ text: lines.join('\n') })

  test('armed from a text, seen on the stream, and compared', async () => {
    const rule = 'where: { at: register, register: GBPA, access: read }, what: { do: set, value: 7 }'
    const armed = await check('POST', '/api/v1/faults', { ...text('rules:', `  - { name: seven, ${rule} }`), seed: 3 })
    expect(armed.json).toMatchObject({ seed: 3, rules: [{ rule: 'seven', at: 'register', state: 'waiting' }] })
    expect(await server.qemu.read(ARM_SMMU_GBPA, 4)).toMatchObject({ valueLo: 7 })
    await server.qemu.read(ARM_SMMU_GBPA, 4)
    await expect.poll(() => server.manager.history.firings.read(0, 10, undefined).items).toHaveLength(1)
    const [firing] = server.manager.history.firings.read(0, 10, undefined).items
    expect((await check('GET', '/api/v1/faults')).json).toMatchObject({ rules: [{ state: 'spent', fired: 1 }] })
    await expect.poll(async () => (await check('GET', `/api/v1/traps/numbered/${firing?.trap}`)).status).toBe(200)
    const during = await check('GET', '/api/v1/faults/effect')
    expect(during.json).toMatchObject({ over: false, since: { traps: 2, disk: null } })
    expect((await check('DELETE', '/api/v1/faults')).status).toBe(204)
    await server.qemu.read(ARM_SMMU_GBPA, 4)
    expect((await check('GET', '/api/v1/faults/effect')).json).toMatchObject({ over: true, since: { traps: 2 } })
    // What is armed next is compared with the time since.
    await check('POST', '/api/v1/faults', { faults: ['irq-ctrlack-stuck'] })
    expect((await check('GET', '/api/v1/faults/effect')).json).toMatchObject({ over: false, before: { traps: 1 } })
    await check('DELETE', '/api/v1/faults')
  })

  test('what the guest has seen is counted, although the trap thread counts a trap after its answer', async () => {
    const { manager, qemu } = server
    await manager.faults.arm([], 1)
    for (let n = 1; n <= 200; n++) {
      await qemu.read(ARM_SMMU_GBPA, 4)
      expect(await manager.faults.effect()).toMatchObject({ since: { traps: n } })
    }
    await qemu.read(ARM_SMMU_GBPA, 4)
    await manager.faults.disarm()
    expect(await manager.faults.effect()).toMatchObject({ over: true, since: { traps: 201 } })
  })

  test.each([
    [
      'an unknown register',
      ['rules:', '  - name: a', '    where: { at: register, register: CR9, access: read }', '    what: { do: freeze }'],
      3,
      /did you mean/,
    ],
    ['broken YAML', ['rules:', '  - { name: a'], 2, /./],
    ['no rules', ['hello'], 1, /expected either/],
    [
      'what the policy has not',
      ['rules:', '  - { name: a, where: { at: command }, what: { do: drop } }'],
      2,
      /policy passthrough lacks what this needs/,
    ],
  ])('refused with its place: %s', async (_what, lines, line, message) => {
    const { status, json } = await check('POST', '/api/v1/faults', text(...lines))
    expect(status).toBe(422)
    const { errors } = json as { errors: object[] }
    expect(errors[0]).toMatchObject({ line, column: expect.any(Number), message: expect.stringMatching(message) })
  })
})

describe('bad input', () => {
  test.each([
    ['/api/v1/memory/bytes?address=0x40000000&length=1e400'],
    ['/api/v1/memory/bytes?address=0x40000000&length=Infinity'],
    ['/api/v1/traps?after=1e999'],
    ['/api/v1/traps/1e400'],
    ['/api/v1/smmus/-1e400/queues'],
  ])('a number that is not finite: %s', async url => {
    expect(await check('GET', url)).toMatchObject({ status: 400 })
  })

  test('a number that is not finite, in a body', async () => {
    const response = await fetch(`${server.url}/api/v1/faults`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: '{"rules":[{"name":1e400}]}',
    })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ detail: 'body/rules/0/name is not a finite number' })
  })

  test.each([
    ['lists', `{"rules":[${'['.repeat(30_000)}${']'.repeat(30_000)}]}`],
    ['objects', `{"rules":[${'{"a":'.repeat(10_000)}1${'}'.repeat(10_000)}]}`],
  ])('%s nested deeper than the stack', async (_what, body) => {
    const response = await fetch(`${server.url}/api/v1/faults`, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body,
    })
    expect(response.status).toBe(400)
    expect(await response.json()).toMatchObject({ detail: 'the body is nested more than 64 deep' })
  })

  test('a URL that is none, or has a part that is too long', async () => {
    for (const [path, status] of [
      ['/api/v1/traps/%zz', 400],
      [`/api/v1/traps/${'1'.repeat(200)}`, 414],
    ] as const) {
      const response = await fetch(server.url + path)
      expect([response.status, response.headers.get('content-type')]).toEqual([
        status,
        expect.stringContaining('problem+json'),
      ])
    }
  })

  test('too large, not JSON, another content type', async () => {
    const post = (body: string, type: string) =>
      fetch(`${server.url}/api/v1/machine/console`, { method: 'POST', headers: { 'content-type': type }, body })
    expect((await post(JSON.stringify({ text: 'x'.repeat(100_000) }), 'application/json')).status).toBe(413)
    expect((await post('{', 'application/json')).status).toBe(400)
    expect((await post('text=x', 'application/x-www-form-urlencoded')).status).toBe(415)
    expect((await post('{"text":"x"}', 'text/plain')).status).toBe(400)
  })
})
