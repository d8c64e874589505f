// SPDX-License-Identifier: Apache-2.0
/** protocol/README.md, "Sleeping": all interleavings of one end that sleeps and one that puts bytes in. */
import { expect, test } from 'vitest'

/** What both ends see, how far each has got, and what each keeps to itself. */
interface State {
  tail: number
  sleeps: boolean
  bells: number
  waker: number
  /** What the waker has loaded of `sleeps`. */
  saw: boolean
  sleeper: number
  taken: number
}

/** One step of an end, to be taken in one go; false: it waits. The position moves on by itself unless the step sets it. */
type Step = (state: State) => boolean | undefined

const FRAMES = 3

/** Moves the tail; loads the flag, behind the barrier; clears it; rings. */
const move: Step = state => {
  state.tail++
}
const load: Step = state => {
  state.saw = state.sleeps
}
const clear: Step = state => {
  if (state.saw) state.sleeps = false
}
const ring: Step = state => {
  if (state.saw) state.bells++
}
const WAKER = [move, load, clear, ring]

/** Takes all there is; says that it sleeps; looks again; sleeps; is awake. */
const take: Step = state => {
  state.taken = state.tail
}
const doze: Step = state => {
  state.sleeps = true
}
const again: Step = state => {
  if (state.taken !== state.tail) state.sleeper++
}
const sleep: Step = state => state.bells > 0
const drain: Step = state => {
  state.bells = 0
}
const awake: Step = state => {
  state.sleeps = false
}
const SLEEPER = [take, doze, again, sleep, drain, awake]

/** States from which nothing goes on although there are bytes that nobody took. */
function stuck(waker: readonly Step[], sleeper: readonly Step[]): { states: number; lost: number } {
  const first: State = { tail: 0, sleeps: false, bells: 0, waker: 0, saw: false, sleeper: 0, taken: 0 }
  const seen = new Set<string>()
  const todo = [first]
  let lost = 0
  for (let state = todo.pop(); state !== undefined; state = todo.pop()) {
    const key = JSON.stringify(state)
    if (seen.has(key)) continue
    seen.add(key)
    const next: State[] = []
    if (state.waker < FRAMES * waker.length) {
      const after = { ...state, waker: state.waker + 1 }
      waker[state.waker % waker.length]?.(after)
      next.push(after)
    }
    const after = { ...state }
    if (sleeper[state.sleeper]?.(after) !== false) {
      after.sleeper = (after.sleeper + 1) % sleeper.length
      next.push(after)
    }
    if (next.length === 0 && state.taken !== state.tail) lost++
    todo.push(...next)
  }
  return { states: seen.size, lost }
}

test('no wake-up is lost', () => {
  const { states, lost } = stuck(WAKER, SLEEPER)
  expect(states).toBeGreaterThan(200)
  expect(lost).toBe(0)
})

test.each<[name: string, waker: readonly Step[], sleeper: readonly Step[]]>([
  ['the flag is loaded before the counter is seen to move', [load, move, clear, ring], SLEEPER],
  ['nobody looks again after setting the flag', WAKER, [take, doze, sleep, drain, awake]],
  ['the flag is set after the second look', WAKER, [take, again, doze, sleep, drain, awake]],
  ['the flag is cleared after the doorbell was sent', [move, load, ring, clear], SLEEPER],
])('it would be, if %s', (_, waker, sleeper) => {
  expect(stuck(waker, sleeper).lost).toBeGreaterThan(0)
})
