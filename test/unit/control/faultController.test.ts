// SPDX-License-Identifier: Apache-2.0
import { EventEmitter } from 'node:events'
import { beforeEach, expect, test } from 'vitest'
import { FaultController } from '../../../server/control/faultController.ts'
import type { Session } from '../../../server/control/session.ts'

const executed: string[] = []
beforeEach(() => {
  executed.length = 0
})

/** A session without a machine: QMP commands are noted, events come from the test. */
function session(): { session: Session; thread: EventEmitter; events: EventEmitter } {
  const thread = Object.assign(new EventEmitter(), { call: async () => {} })
  const events = new EventEmitter()
  const fake = Object.assign(events, {
    console: new EventEmitter(),
    thread,
    ended: new Promise(() => {}),
    reset: async () => void executed.push('reset'),
    qmp: async () => ({ execute: async (command: string) => void executed.push(command) }),
  })
  return { session: fake as unknown as Session, thread, events }
}

const pause = { rule: 'a', n: 1, trap: 1, time: 0, what: '', action: { do: 'pause', ms: 50 } }

test.each<[string, (director: FaultController, events: EventEmitter) => void]>([
  ['undisturbed', () => {}],
  ['disarmed meanwhile', director => director.watch([])],
  ['reset meanwhile', (_, events) => void events.emit('reset', 0)],
])('a pause ends: %s', async (_name, meanwhile) => {
  const { session: machine, thread, events } = session()
  const director = new FaultController(machine)
  thread.emit('fired', pause)
  await expect.poll(() => executed).toContain('stop')
  meanwhile(director, events)
  await expect.poll(() => executed).toEqual(['stop', 'cont'])
})
