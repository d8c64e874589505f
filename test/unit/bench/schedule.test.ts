// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { callsOf, scheduleOf, sharesOf } from '../../bench/schedule.ts'

const THREAD = 70
const switched = (cpu: number, at: string, prev: number, state: string, next: number) =>
  `  a thread-${prev} [00${cpu}] d..2.  ${at}: sched_switch: prev_comm=CPU 0/TCG prev_pid=${prev} prev_prio=120 prev_state=${state} ==> next_comm=node next_pid=${next} next_prio=120`
const woken = (at: string, thread: number, target: number) =>
  `  <idle>-0  [000] dNh4.  ${at}: sched_waking: comm=node pid=${thread} prio=120 target_cpu=00${target}`
const US = 1000

const LINES = [
  '# tracer: nop',
  switched(1, '1.000000', 0, 'R', 50),
  switched(0, '1.000010', 0, 'R', THREAD),
  switched(0, '1.000030', THREAD, 'R+', 60), // taken from it
  switched(0, '1.000034', 60, 'S', 61),
  switched(1, '1.000035', 50, 'S', 51), // another processor
  switched(0, '1.000040', 61, 'S', THREAD),
  switched(0, '1.000050', THREAD, 'S', 0),
  woken('1.000055', 71, 0), // another thread
  woken('1.000060', THREAD, 1),
  woken('1.000061', THREAD, 1), // it is awake already
  switched(1, '1.000063', 51, 'R', THREAD),
  switched(1, '1.000070', THREAD, 'D', 51),
]

const span = (from: number, to: number, state: string, behind?: number) => ({
  from: 1e9 + from * US,
  to: 1e9 + to * US,
  state,
  ...(behind !== undefined && { behind }),
})

test('a thread runs, waits behind whoever has its processor, and sleeps until it is woken', () => {
  expect(scheduleOf(LINES, THREAD)).toEqual([
    span(10, 30, 'ran'),
    span(30, 34, 'waited', 60),
    span(34, 40, 'waited', 61),
    span(40, 50, 'ran'),
    span(50, 60, 'slept'),
    span(60, 63, 'waited', 51),
    span(63, 70, 'ran'),
  ])
  expect(scheduleOf(LINES, 99)).toEqual([])
})

test('a switch that the kernel lost: from what the thread does itself', () => {
  const lines = [
    switched(0, '1.000000', THREAD, 'S', 0),
    woken('1.000010', THREAD, 0),
    `  node-${THREAD} [000] .....  1.000020: sys_exit: NR 281 = 1`,
    switched(0, '1.000030', THREAD, 'S', 0),
  ]
  expect(scheduleOf(lines, THREAD)).toEqual([span(0, 10, 'slept'), span(10, 20, 'waited', 0), span(20, 30, 'ran')])
})

test('what a stretch of time went to', () => {
  const spans = scheduleOf(LINES, THREAD)
  const { behind, ...shares } = sharesOf(spans, 1e9 + 20 * US, 1e9 + 62 * US)
  expect(shares).toEqual({ ran: 20 * US, waited: 12 * US, slept: 10 * US })
  expect([...behind]).toEqual([
    [60, 4 * US],
    [61, 6 * US],
    [51, 2 * US],
  ])
  expect(sharesOf(spans, 0, 1e9)).toEqual({ ran: 0, waited: 0, slept: 0, behind: new Map() })
  expect(sharesOf([], 0, 1e9)).toMatchObject({ ran: 0 })
})

test('page faults and system calls of the thread', () => {
  const of = (thread: number, at: string, event: string) => `  node-${thread} [001] d..1.  2.${at}: ${event}`
  const fault = 'page_fault_user: address=0x7f ip=0x40 error_code=0x6'
  const lines = [
    of(THREAD, '000001', 'sys_exit: NR 232 = 1'), // entered before it began
    of(THREAD, '000003', 'sys_enter: NR 1 (1b, 7ffc, 8, 0, 0, 0)'),
    of(7, '000004', 'sys_enter: NR 202 (0, 0, 0, 0, 0, 0)'),
    of(THREAD, '000009', 'sys_exit: NR 1 = 8'),
    of(THREAD, '000011', fault),
    of(7, '000012', fault),
  ]
  expect(callsOf([...LINES, ...lines], THREAD)).toEqual({
    faults: [2e9 + 11 * US],
    calls: [{ from: 2e9 + 3 * US, to: 2e9 + 9 * US, number: 1 }],
  })
})
