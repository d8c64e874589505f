// SPDX-License-Identifier: Apache-2.0
/** Bull Board at /queue, for who knows it: a look at a fleet's jobs, without the buttons that change them. */
import { createBullBoard } from '@bull-board/api'
import { BullMQAdapter } from '@bull-board/api/bullMQAdapter'
import { FastifyAdapter } from '@bull-board/fastify'
import type { Queue } from 'bullmq'
import type { FastifyInstance } from 'fastify'
import { BOARD_PATH } from './schemas/request.ts'
import { contentSecurityPolicy } from './security.ts'

/** Board's page says where it is by <base>, and has a style of its own. */
const POLICY = contentSecurityPolicy()
  .replace("base-uri 'none'", "base-uri 'self'")
  .replace("style-src 'self'", "style-src 'self' 'unsafe-inline'")

/** To be registered before other static files are: both want the same decorator. */
export async function serveBoard(app: FastifyInstance, queue: Queue): Promise<void> {
  const serverAdapter = new FastifyAdapter()
  serverAdapter.setBasePath(BOARD_PATH)
  createBullBoard({
    // Who takes a job out, or has it run twice, takes a result from the campaign that waits for it.
    queues: [new BullMQAdapter(queue, { readOnlyMode: true })],
    serverAdapter,
    options: { uiConfig: { boardTitle: 'smmu-cosim' } },
  })
  await app.register(
    async board => {
      board.addHook('onRequest', async (_request, reply) => {
        reply.header('content-security-policy', POLICY)
      })
      await board.register(serverAdapter.registerPlugin())
    },
    { prefix: BOARD_PATH },
  )
}
