// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import type { Queue, QueueEntry } from '../../../server/api/schemas/smmus.ts'
import { pairs } from '../../../server/web/src/queuePairs.ts'

const queue = (...shown: QueueEntry[]): Queue => ({
  enabled: true,
  base: '0x0',
  entries: 4096,
  prod: 0,
  cons: 0,
  prodWrap: 0,
  consWrap: 0,
  pending: 0,
  error: 0,
  shown,
})
/** Of the host: its index, and where it is in the shadow. */
const host = (index: number, shadow?: number): QueueEntry => ({
  index,
  name: '',
  text: '',
  words: [],
  ...(shadow !== undefined && { shadow }),
})
const hardware = (index: number, verdict = 'kept'): QueueEntry => ({ index, name: '', text: '', words: [], verdict })

const lines = (...args: Parameters<typeof pairs>) =>
  pairs(...args).map(({ host, shadow }) => `${host?.index ?? '-'} ${shadow?.index ?? '-'}`)

test.each<[string, Queue, Queue | null, string[]]>([
  ['without a shadow', queue(host(1), host(2)), null, ['1 -', '2 -']],
  ['one to one', queue(host(7, 4095), host(8, 0)), queue(hardware(4095), hardware(0)), ['7 4095', '8 0']],
  [
    'own commands where the hardware gets them, also before the first',
    queue(host(1, 12), host(2, 14)),
    queue(
      hardware(10, 'own'),
      hardware(11, 'own'),
      hardware(12),
      hardware(13, 'own'),
      hardware(14),
      hardware(15, 'own'),
    ),
    ['- 10', '- 11', '1 12', '- 13', '2 14', '- 15'],
  ],
  [
    'dropped ones have no partner',
    queue(host(1, 5), host(2), host(3, 6)),
    queue(hardware(5), hardware(6)),
    ['1 5', '2 -', '3 6'],
  ],
  [
    'older entries of the shadow are left out',
    queue(host(9, 21)),
    queue(hardware(19), hardware(20), hardware(21)),
    ['9 21'],
  ],
  ['an entry whose place was used again', queue(host(1, 50), host(2, 51)), queue(hardware(51)), ['1 -', '2 51']],
  [
    'what the guest did in the meantime',
    queue(host(1, 4)),
    queue(hardware(4), hardware(5, 'own'), hardware(6)),
    ['1 4', '- 5'],
  ],
  ['nothing yet', queue(), queue(), []],
])('%s', (_name, own, shadow, expected) => {
  expect(lines(own, shadow)).toEqual(expected)
})
