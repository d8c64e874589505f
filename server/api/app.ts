// SPDX-License-Identifier: Apache-2.0
import helmet from '@fastify/helmet'
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import fastify, { type FastifyBaseLogger, type FastifyInstance, LogController, type RouteHandlerMethod } from 'fastify'
import { Type } from 'typebox'
import { EXPOSITION_TYPE } from '../fleet/exposition.ts'
import type { QueueWatch } from '../fleet/watch.ts'
import { asyncApi } from './asyncApi.ts'
import { serveDashboard } from './dashboard.ts'
import { Feed } from './feed.ts'
import { Gate } from './gate.ts'
import type { MachineManager } from './machineManager.ts'
import { metrics } from './metrics.ts'
import { openApi30 } from './openApi30.ts'
import { registerProblems, sendProblem } from './problems.ts'
import { answers, problems, register } from './register.ts'
import { attackHandlers } from './routes/attack.ts'
import { breakpointHandlers } from './routes/breakpoints.ts'
import { faultHandlers } from './routes/faults.ts'
import { lifecycleHandlers } from './routes/lifecycle.ts'
import { pageHandlers } from './routes/pages.ts'
import { recordingHandlers } from './routes/recordings.ts'
import { smmuHandlers } from './routes/smmus.ts'
import { traceHandlers } from './routes/trace.ts'
import { contract, NAMED } from './schemas/contract.ts'
import { BOARD_PATH, PREFIX, STREAM_PATH } from './schemas/request.ts'
import { TAGS } from './schemas/route.ts'
import type { CounterItem } from './schemas/subscriptions.ts'
import { type Access, basicPassword, bearer, contentSecurityPolicy, refusal } from './security.ts'
import { Subscriptions } from './subscriptions.ts'

export interface AppOptions {
  readonly manager: MachineManager
  readonly access: Access
  readonly version: string
  /** Folder of the built dashboard; absent: no dashboard is served. */
  readonly dashboard?: string
  /** Of a fleet: its metrics are told, and its board is at BOARD_PATH. */
  readonly queue?: QueueWatch
  readonly logger?: FastifyBaseLogger
}

const MAX_BODY = 65_536
const COUNTERS_MS = 500
const HealthSchema = Type.Object({ status: Type.String(), version: Type.String(), machine: Type.String() })

/** Idle connections are closed. */
const HEADERS_MS = 10_000
const IDLE_MS = 5_000

/** Makes the HTTP and WebSocket server of a machine; the caller makes it listen. */
export async function createApp(options: AppOptions): Promise<{ app: FastifyInstance; subscriptions: Subscriptions }> {
  const { manager, access, version, queue } = options
  const app = fastify({
    bodyLimit: MAX_BODY,
    // An unknown field is an error: dropping it would hide a typo.
    ajv: { customOptions: { removeAdditional: false, coerceTypes: true } },
    // Compiling a serializer for each schema would delay the start by more than a second.
    schemaController: { compilersFactory: { buildSerializer: () => () => JSON.stringify } },
    ...(options.logger ? { loggerInstance: options.logger } : { logger: false }),
    logController: new LogController({ disableRequestLogging: true }),
    requestTimeout: 30_000,
    keepAliveTimeout: IDLE_MS,
    http: { headersTimeout: HEADERS_MS, connectionsCheckingInterval: IDLE_MS },
    routerOptions: { maxParamLength: 100 },
    // Errors in the URL itself are found before any hook runs.
    frameworkErrors: (error, _request, reply) =>
      sendProblem(reply, error.statusCode ?? 400, error.message.slice(0, 300)),
    forceCloseConnections: true,
  })
  registerProblems(app)
  const gate = new Gate(access)
  app.server.on('connection', socket => gate.connected(socket))

  app.addHook('onRequest', async (request, reply) => {
    const { socket } = request
    const wait = gate.admit(socket)
    if (wait > 0) return sendProblem(reply.header('retry-after', wait), 429, `too many requests: wait ${wait} s`)
    const why = refusal(request.headers, access)
    if (why !== undefined) return sendProblem(reply, 403, why)
    if (isPublic(request.url)) return
    // The board is another's page, which knows of no token: the browser asks for it, as a password.
    const basic = queue !== undefined && isBoard(request.url)
    const verdict = gate.check(socket, bearer(request.headers) ?? (basic ? basicPassword(request.headers) : undefined))
    if (verdict === 'late') return sendProblem(reply, 429, 'too many wrong tokens: wait a minute')
    if (verdict === 'wrong') {
      const scheme = basic ? 'Basic realm="smmu-cosim: the token as password", charset="UTF-8"' : 'Bearer'
      return sendProblem(reply.header('www-authenticate', scheme), 401, 'the token of this server is needed')
    }
  })
  await app.register(helmet, {
    contentSecurityPolicy: false,
    strictTransportSecurity: false,
    crossOriginEmbedderPolicy: true,
  })
  app.addHook('onSend', async (_request, reply) => {
    if (!reply.hasHeader('content-security-policy')) {
      reply.header('content-security-policy', contentSecurityPolicy())
    }
    if (!reply.hasHeader('cache-control')) reply.header('cache-control', 'no-store')
  })
  for (const schema of NAMED) app.addSchema(schema)
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'smmu-cosim',
        version,
        description: `Watch, stop, inspect and steer a live machine. Streams: WebSocket at ${STREAM_PATH}, described by ${PREFIX}/asyncapi.json.`,
        license: { name: 'Apache-2.0', url: 'https://www.apache.org/licenses/LICENSE-2.0' },
      },
      servers: [{ url: '/', description: 'this server' }],
      tags: Object.entries(TAGS).map(([name, description]) => ({ name, ...(description && { description }) })),
      components: { securitySchemes: { token: { type: 'http', scheme: 'bearer' } } },
      ...(access.token !== undefined && { security: [{ token: [] }] }),
    },
    refResolver: { buildLocalReference: (json, _base, _fragment, i) => String(json.$id ?? `def-${i}`) },
  })
  await app.register(swaggerUi, { routePrefix: '/docs', staticCSP: true, theme: { title: 'smmu-cosim API' } })

  const counters = new Feed<CounterItem>(1_000)
  const subscriptions = new Subscriptions(
    {
      traps: manager.history.traps,
      events: manager.history.events,
      warnings: manager.history.warnings,
      firings: manager.history.firings,
      console: manager.history.console,
      counters,
      machine: manager.statuses,
      pages: manager.history.pages,
      attacks: manager.attacks.feed,
      attack: manager.attackRun.feed,
    },
    access,
    gate,
  )
  const timer = setInterval(() => {
    manager.sample()
    if (subscriptions.watched('counters')) counters.push({ at: Date.now(), counters: manager.counters() })
  }, COUNTERS_MS).unref()
  subscriptions.attach(app.server)
  app.addHook('preClose', async () => {
    clearInterval(timer)
    subscriptions.close()
  })

  const tags = ['server']
  const get = (url: string, operationId: string, summary: string, good: object, handler: RouteHandlerMethod) =>
    app.get(
      url,
      {
        schema: {
          operationId,
          tags,
          summary,
          response: { 200: good, ...problems() },
          ...(isPublic(url) && { security: [] }),
        },
      },
      handler,
    )
  get('/health', 'getHealth', 'Is the server there?', answers('its state', HealthSchema), async () => ({
    status: 'ok',
    version,
    machine: manager.status().state,
  }))
  const exposition = { description: 'text exposition', content: { 'text/plain': { schema: Type.String() } } }
  get('/metrics', 'getMetrics', 'Prometheus metrics', exposition, async (_request, reply) =>
    reply.type(EXPOSITION_TYPE).send(`${metrics(manager, subscriptions)}${(await queue?.metrics()) ?? ''}`),
  )
  const text = (what: string) => answers(what, Type.Object({}, { additionalProperties: true }))
  const documented = (name: string, id: string, what: string, make: () => object) =>
    get(`${PREFIX}/${name}`, id, `This API as ${what}`, text(`the ${what} document`), async () => make())
  documented('openapi.json', 'getOpenApi', 'OpenAPI 3.1', () => app.swagger())
  documented('openapi-3.0.json', 'getOpenApi30', 'OpenAPI 3.0', () => openApi30(app.swagger()))
  documented('asyncapi.json', 'getAsyncApi', 'AsyncAPI 3.1', () => asyncApi(version, access.token !== undefined))
  const handlers = {
    ...lifecycleHandlers(manager, version),
    ...traceHandlers(manager),
    ...smmuHandlers(manager),
    ...pageHandlers(manager),
    ...breakpointHandlers(manager),
    ...faultHandlers(manager),
    ...attackHandlers(manager.attackRun),
    ...recordingHandlers(manager.recordings),
  }
  await app.register(async api => register(api, contract, handlers), { prefix: PREFIX })
  if (queue !== undefined) await (await import('./queueBoard.ts')).serveBoard(app, queue.queue)
  if (options.dashboard !== undefined) await serveDashboard(app, options.dashboard)
  return { app, subscriptions }
}

const pathOf = (url: string): string => url.split('?')[0] ?? ''
const isBoard = (url: string): boolean => pathOf(url) === BOARD_PATH || pathOf(url).startsWith(`${BOARD_PATH}/`)

/** Paths that need no token: they say nothing about the machine, and the page asks for the token itself. */
function isPublic(url: string): boolean {
  const path = pathOf(url)
  return path === '/' || path === '/health' || path.startsWith('/assets/') || path === '/favicon.svg'
}
