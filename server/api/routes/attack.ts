// SPDX-License-Identifier: Apache-2.0
import type { AttackRun } from '../attackRun.ts'
import type { attack } from '../schemas/attack.ts'
import type { Handlers } from '../schemas/route.ts'

export function attackHandlers(run: AttackRun): Handlers<typeof attack> {
  return {
    'GET /attack': () => run.view(),
    'POST /attack': ({ body }) => {
      run.start(body)
      return run.view()
    },
    'POST /attack/stop': async () => {
      await run.stop()
      return run.view()
    },
    'GET /attack/findings/:n': ({ params }) => {
      const { n, kind, message, seconds, lines } = run.finding(params.n)
      return { n, kind, message, seconds, lines: [...lines] }
    },
  }
}
