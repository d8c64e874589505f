// SPDX-License-Identifier: Apache-2.0
/** A target with a fault of each kind, so that the fuzzer's own faults are found. */
import type { Choices } from '../../fuzz/choices.ts'
import { Finding, type Target } from '../../fuzz/target.ts'

const planted: Target = {
  name: 'planted',
  summary: 'faults that are there on purpose',
  run(choices) {
    // Each byte that fits is an outcome of its own, so the fuzzer gets there step by step.
    const word = 'fault'
    let right = 0
    while (right < word.length && choices.byte() === word.charCodeAt(right)) right++
    if (right === word.length) fail(choices)
    return `${right} right`
  },
}

function fail(choices: Choices): void {
  const number = choices.byte()
  switch (choices.byte() % 3) {
    case 0:
      throw new Finding(`number ${number} is wrong`)
    case 1:
      throw new TypeError(`number ${number} is undefined`)
    default:
  }
}

export default planted
