// SPDX-License-Identifier: Apache-2.0
import { Ajv2020 } from 'ajv/dist/2020.js'
import fc from 'fast-check'
import { Id } from '../../../protocol/generated/messages.ts'
import * as R from '../../../server/smmu/registers.ts'
import { type Harness, startApp } from '../../unit/api/harness.ts'
import { arbitraryOf, asText, type JsonSchema, junkText, written } from '../schemaArbitrary.ts'
import { Finding, type Target } from '../target.ts'

interface Operation {
  readonly parameters?: readonly {
    readonly name: string
    readonly in: 'path' | 'query' | 'header'
    readonly required?: boolean
    readonly schema: JsonSchema
  }[]
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly schema: JsonSchema }>> }
  readonly responses: Readonly<
    Record<string, { readonly content?: Readonly<Record<string, { readonly schema: object }>> }>
  >
}

interface Document {
  readonly paths: Readonly<Record<string, Readonly<Record<string, Operation>>>>
  readonly components: { readonly schemas: Readonly<Record<string, JsonSchema>> }
}

interface Request {
  readonly method: string
  readonly template: string
  readonly url: string
  readonly body: string | undefined
  readonly type: string
}

/** Requests of one input: so many are enough to arm something, break somewhere, and look. */
const MAX_REQUESTS = 4

/** Ends the machine, or starts a real one, or another process. */
const LEFT_OUT = ['POST /api/v1/machine/kill', 'POST /api/v1/machine/start', 'POST /api/v1/attack']

const RAM = 0x4000_0000
const RAM_BYTES = 1 << 20
const ADDRESSES = Array.from({ length: 64 }, (_, i) => `0x${(RAM + i * 0x4000 + (i % 4) * 8).toString(16)}`)

/** Tables, entries and queues of a guest that means no good: pointers into its memory, with any other bits. */
function hostileMemory(): Uint8Array {
  const words = new BigUint64Array(RAM_BYTES / 8)
  let state = 1n
  const next = () => {
    state = (state * 6364136223846793005n + 1442695040888963407n) & 0xffff_ffff_ffff_ffffn
    return state
  }
  for (let i = 0; i < words.length; i++) {
    const page = BigInt(RAM) + ((next() >> 20n) % BigInt(RAM_BYTES / 4096)) * 4096n
    words[i] = next() % 4n === 0n ? next() : page | (next() >> 52n) | ((next() >> 52n) << 52n)
  }
  // Of the stream table, whose entries are 64 bytes, most are valid.
  for (let ste = 0; ste < 16; ste++) words[ste * 8] |= 1n
  return new Uint8Array(words.buffer)
}

function requestsOf(document: Document): fc.Arbitrary<Request> {
  const words = { named: document.components.schemas, addresses: ADDRESSES }
  const operations = Object.entries(document.paths).flatMap(([template, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ method: method.toUpperCase(), template, operation })),
  )
  const of = ({ method, template, operation }: (typeof operations)[number]): fc.Arbitrary<Request> => {
    const parameters = operation.parameters ?? []
    const part = (where: string) =>
      fc.record(
        Object.fromEntries(parameters.filter(p => p.in === where).map(p => [p.name, arbitraryOf(p.schema, words)])),
        where === 'query'
          ? { requiredKeys: parameters.filter(p => p.in === 'query' && p.required).map(p => p.name) }
          : {},
      )
    const schema = operation.requestBody?.content['application/json']?.schema
    const json = schema === undefined ? fc.constant(undefined) : arbitraryOf(schema, words).map(written)
    const body = fc.oneof(
      { weight: 10, arbitrary: json },
      { weight: 1, arbitrary: fc.option(junkText, { nil: undefined }) },
    )
    const type = fc.oneof(
      { weight: 20, arbitrary: fc.constant('application/json') },
      {
        weight: 1,
        arbitrary: fc.constantFrom('text/plain', 'application/x-www-form-urlencoded', 'application/json;x', 'a'),
      },
    )
    return fc.record({ path: part('path'), query: part('query'), body, type }).map(({ path, query, body, type }) => {
      const filled = template.replace(/\{(\w+)\}/g, (_, name: string) =>
        encodeURIComponent(asText((path as Record<string, unknown>)[name]).toWellFormed()),
      )
      const given = Object.entries(query).map(([name, value]): [string, string] => [name, asText(value)])
      const url = given.length === 0 ? filled : `${filled}?${new URLSearchParams(given)}`
      return { method, template, url, body: method === 'GET' ? undefined : body, type }
    })
  }
  return fc.oneof(...operations.filter(({ method, template }) => !LEFT_OUT.includes(`${method} ${template}`)).map(of))
}

const pointer = (text: string) =>
  text.replaceAll('~', '~0').replaceAll('/', '~1').replaceAll('{', '%7B').replaceAll('}', '%7D')

/** A server with a machine in which there is something to look at. */
class Api {
  readonly #server: Harness
  readonly #document: Document
  readonly #requests: fc.Arbitrary<Request>
  readonly #ajv = new Ajv2020({ strict: false, validateFormats: false })
  #sent = 0

  private constructor(server: Harness) {
    this.#server = server
    this.#document = server.app.swagger() as unknown as Document
    this.#requests = requestsOf(this.#document)
    this.#ajv.addSchema(JSON.parse(JSON.stringify(this.#document)) as object, 'api')
  }

  static async start(): Promise<Api> {
    const server = await startApp({ qmp: true })
    const { qemu } = server
    for (const [register, value] of [
      [R.ARM_SMMU_IDR0, R.IDR0_S1P | R.IDR0_S2P | (R.IDR0_TTF_AARCH64 << 2)],
      [R.ARM_SMMU_IDR1, 8],
      [R.ARM_SMMU_IDR5, R.IDR5_GRAN4K | 5],
      [R.ARM_SMMU_STRTAB_BASE_CFG, 4],
      [R.ARM_SMMU_CMDQ_PROD, 0x1234],
    ] as const) {
      qemu.registers.set(register, value)
    }
    qemu.wide.set(R.ARM_SMMU_STRTAB_BASE, [RAM, 0])
    qemu.wide.set(R.ARM_SMMU_CMDQ_BASE, [RAM + 0x1_0000 + 12, 0])
    qemu.wide.set(R.ARM_SMMU_EVTQ_BASE, [RAM + 0x2_0000 + 11, 0])
    server.poke(RAM, hostileMemory())
    await qemu.write(R.ARM_SMMU_CR0, 4, R.CR0_SMMUEN)
    await qemu.write(R.ARM_SMMU_GBPA, 4, 5)
    qemu.event(0x10, 8)
    server.say('hello from the guest\n')
    await qemu.read(R.ARM_SMMU_GBPA, 4)
    await server.settle()
    return new Api(server)
  }

  request(seed: number): Request {
    const [request] = fc.sample(this.#requests, { seed, numRuns: 1 })
    return request
  }

  /** @returns the status of an answer that is as the document describes it. @throws Finding when it is not */
  async send({ method, template, url, body, type }: Request): Promise<number> {
    const sent = this.#sent++
    const response = await this.#server.app.inject({
      method: method as 'GET',
      url,
      // So many requests of one address would be refused.
      remoteAddress: `10.${(sent >> 16) & 255}.${(sent >> 8) & 255}.${sent & 255}`,
      headers: { host: 'localhost', ...(body !== undefined && { 'content-type': type }) },
      ...(body !== undefined && { payload: body }),
    })
    const { statusCode } = response
    const what = `${method} ${url} ${body ?? ''}: ${statusCode} ${response.body.slice(0, 300)}`
    if (statusCode >= 500) throw new Finding(`an error of the server: ${what}`)
    const operation = this.#document.paths[template]?.[method.toLowerCase()]
    // A parameter that is empty makes another path of it.
    if (statusCode === 404 && response.body.includes(`${method} /`)) return statusCode
    const answer = operation?.responses[String(statusCode)]
    if (answer === undefined) throw new Finding(`not in the document: ${what}`)
    const media = String(response.headers['content-type'] ?? '').split(';')[0]
    if (answer.content?.[media] === undefined || !media.includes('json')) return statusCode
    const ref = `api#/paths/${pointer(template)}/${method.toLowerCase()}/responses/${statusCode}/content/${pointer(media)}/schema`
    const validate = this.#ajv.getSchema(ref)
    if (validate?.(JSON.parse(response.body)) !== true) {
      throw new Finding(`not as described: ${what} ${JSON.stringify(validate?.errors)}`)
    }
    return statusCode
  }

  /** What was armed must not have harmed the trap path, and is gone for the next input. */
  async settle(): Promise<void> {
    const { manager, qemu } = this.#server
    for (const { id } of await manager.breakpoints.list()) await manager.breakpoints.remove(id)
    await manager.breakpoints.breakNext(false)
    await manager.faults.disarm()
    const reply = await qemu.write(R.ARM_SMMU_CMDQ_PROD, 4, 0)
    if (reply.type !== Id.reply || reply.status !== 0)
      throw new Finding(`afterwards, a trap has ${JSON.stringify(reply)}`)
  }

  close(): Promise<void> {
    return this.#server.close()
  }
}

let started: Promise<Api> | undefined

const api: Target = {
  name: 'api',
  summary: 'requests made from the OpenAPI document: as it describes them, at its borders, and beside it',
  async run(choices) {
    started ??= Api.start()
    const api = await started
    const outcomes: string[] = []
    for (let i = 0; i < MAX_REQUESTS && choices.left > 0; i++) {
      const request = api.request(choices.below(0x1_0000) * 0x1_0000 + choices.below(0x1_0000))
      outcomes.push(`${request.method} ${request.template} ${await api.send(request)}`)
    }
    await api.settle()
    return outcomes.join(', ')
  },
  async close() {
    await (await started)?.close()
    started = undefined
  },
}

export default api
