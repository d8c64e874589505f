// SPDX-License-Identifier: Apache-2.0
/** What a machine of a session keeps of what its guest says. */
import { expect, test } from 'vitest'
import { type GuestEvent, GuestEvents, MAX_GUEST_EVENTS } from '../../../server/machine/guestEvents.ts'
import { AgentMachine } from '../../../server/sessions/agentMachine.ts'

const event = (seq: number): GuestEvent => ({ seq, event: 'device', ok: true, name: 'virtio-blk' })

/** One whose workload tells what it was given to look at. */
function machine(): { readonly agent: AgentMachine; readonly seen: () => readonly GuestEvent[] } {
  let seen: readonly GuestEvent[] = []
  const running = {
    session: { qemu: { child: { pid: process.pid, stdin: null } } },
    workload: {
      append: () => '',
      check: (events: readonly GuestEvent[]) => {
        seen = events
        return []
      },
    },
  }
  const agent: AgentMachine = Reflect.construct(AgentMachine, [running, [], 'workload'])
  return {
    agent,
    seen() {
      agent.checks()
      return seen
    },
  }
}

test('of a guest that tells events without end, the first are looked at, and the others counted', () => {
  const { agent, seen } = machine()
  for (let seq = 0; seq < MAX_GUEST_EVENTS + 3; seq++) agent.take(`@cosim ${JSON.stringify(event(seq))}`)
  expect(seen()).toHaveLength(MAX_GUEST_EVENTS)
  expect(seen().at(0)).toEqual(event(0))
  expect(seen().at(-1)).toEqual(event(MAX_GUEST_EVENTS - 1))
  expect(agent.droppedEvents).toBe(3)
  // What the machine waits for is heard all the same.
  agent.take('@cosim {"seq":1,"event":"ready","ok":true}')
  expect(agent.readies).toBe(1)
  agent.tell()
  expect([agent.droppedEvents, seen()]).toEqual([0, []])
})

test('what is not kept is said so', () => {
  const events = new GuestEvents()
  const kept = Array.from({ length: MAX_GUEST_EVENTS + 1 }, (_, seq) => events.add(event(seq)))
  expect([kept.indexOf(false), events.all.length, events.dropped]).toEqual([MAX_GUEST_EVENTS, MAX_GUEST_EVENTS, 1])
})
