// SPDX-License-Identifier: Apache-2.0
/** What a hostile host can make a take-over look at (server/hypervisor/README.md, section 16). */
import { expect, test } from 'vitest'
import { commandPlaces } from '../../../../server/hypervisor/pkvm/commandPlaces.ts'
import { command } from '../../smmu/fields.ts'

const repeated = (count: number, words: readonly number[]): Uint32Array =>
  Uint32Array.from({ length: 4 * count }, (_, i) => words[i % 4] ?? 0)

test('the work grows with the commands, not with their product', () => {
  let reads = 0
  const sent = new Proxy(repeated(1000, command('ATC_INV', { sid: 1 })), {
    get(words, key) {
      reads++
      return Reflect.get(words, key, words)
    },
  })
  const places = commandPlaces(sent, repeated(2000, command('CFGI_STE', { sid: 1, leaf: 1 })), [])
  // None of them is the host's: all that it has is behind.
  expect(places.every(place => place === 2000)).toBe(true)
  expect(reads).toBeLessThan(100_000)
})
