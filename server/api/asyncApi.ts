// SPDX-License-Identifier: Apache-2.0
/** What travels over the WebSocket, as AsyncAPI 3.1: made from the schemas that the server checks requests by. */
import type { TSchema } from 'typebox'
import { NAMED } from './schemas/contract.ts'
import { DEFAULT_HOST, DEFAULT_PORT, STREAM_PATH } from './schemas/request.ts'
import { CLIENT_MESSAGES, SERVER_MESSAGES } from './schemas/subscriptions.ts'

const SUMMARIES: Readonly<Record<keyof typeof CLIENT_MESSAGES | keyof typeof SERVER_MESSAGES, string>> = {
  auth: 'The token, when the request that opened the connection had none. The first message.',
  subscribe: 'Send the items of a stream from now on, or from where the client left off.',
  unsubscribe: 'Send no more of them.',
  hello: 'The first answer: what there is.',
  subscribed: 'A subscription begins.',
  items: 'Items of a subscription.',
  error: 'A request was refused, or a subscription ended.',
}

/** A schema whose references lead into the document: a `$id`, also of a part, would be a place of its own for them. */
const located = (schema: TSchema): unknown =>
  JSON.parse(JSON.stringify(schema), (key, part) => {
    if (key === '$id') return undefined
    return key === '$ref' ? `#/components/schemas/${part}` : part
  })

/** Named schemas that these refer to, directly or through each other. */
function referredTo(schemas: readonly unknown[]): Record<string, unknown> {
  const found: Record<string, unknown> = {}
  const look = (value: unknown) => {
    for (const [, name = ''] of JSON.stringify(value).matchAll(/"\$ref":"(\w+)"/g)) {
      const schema = NAMED.find(({ $id }) => $id === name)
      if (schema === undefined || name in found) continue
      found[name] = located(schema)
      look(schema)
    }
  }
  for (const schema of schemas) look(schema)
  return found
}

export function asyncApi(version: string, needsToken: boolean): object {
  const sides = { client: CLIENT_MESSAGES, server: SERVER_MESSAGES } as const
  const all = Object.entries({ ...CLIENT_MESSAGES, ...SERVER_MESSAGES })
  const refs = (messages: object) => Object.keys(messages).map(name => ({ $ref: `#/channels/stream/messages/${name}` }))
  return {
    asyncapi: '3.1.0',
    id: 'urn:smmu-cosim:stream',
    info: {
      title: 'smmu-cosim',
      version,
      description: 'What a live machine does, as it happens. Requests: the OpenAPI document of the same server.',
      license: { name: 'Apache-2.0', url: 'https://www.apache.org/licenses/LICENSE-2.0' },
      contact: { name: 'smmu-cosim' },
      tags: [{ name: 'smmu' }],
    },
    defaultContentType: 'application/json',
    servers: {
      here: {
        host: `${DEFAULT_HOST}:{port}`,
        protocol: 'ws',
        description: 'as `serve` or `--dashboard` prints it',
        variables: { port: { default: String(DEFAULT_PORT) } },
        ...(needsToken && { security: [{ $ref: '#/components/securitySchemes/token' }] }),
      },
    },
    channels: {
      stream: {
        address: STREAM_PATH,
        title: 'Streams',
        description: 'Nothing is queued for a client: one that is too slow misses items, and is told how many.',
        servers: [{ $ref: '#/servers/here' }],
        messages: Object.fromEntries(all.map(([name]) => [name, { $ref: `#/components/messages/${name}` }])),
      },
    },
    operations: {
      request: {
        action: 'receive',
        title: 'What a client sends',
        channel: { $ref: '#/channels/stream' },
        messages: refs(sides.client),
      },
      tell: {
        action: 'send',
        title: 'What the server sends',
        channel: { $ref: '#/channels/stream' },
        messages: refs(sides.server),
      },
    },
    components: {
      messages: Object.fromEntries(
        all.map(([name, schema]) => [
          name,
          {
            name,
            title: name,
            summary: SUMMARIES[name as keyof typeof SUMMARIES],
            contentType: 'application/json',
            payload: located(schema),
          },
        ]),
      ),
      schemas: referredTo(all.map(([, schema]) => schema)),
      securitySchemes: { token: { type: 'http', scheme: 'bearer' } },
    },
  }
}
