// SPDX-License-Identifier: Apache-2.0
/** What a ring tells the account of its looks (looking.ts), with a peer that puts in its bytes between two of them. */
import { expect, test } from 'vitest'
import { Looking } from '../../../server/trap/looking.ts'
import { areaSize, RingEnd } from '../../../server/trap/ringEnd.ts'
import { RingStream } from '../../../server/trap/ringStream.ts'

const CAPACITY = 4096
const MESSAGE = Buffer.from('a message')

/** Counts what it is told; what `between` does comes after a look that found nothing. */
class Watched extends Looking {
  readonly told: string[] = []
  readonly between: (() => void)[] = []

  constructor() {
    super(2, () => 1_000)
  }

  override seen(): void {
    this.told.push('seen')
    super.seen()
  }

  override found(): number {
    this.told.push('found')
    return super.found()
  }

  override pays(): boolean {
    const next = this.between.shift()
    next?.()
    return next !== undefined
  }
}

test('a message that was looked for is seen before it is dealt with, one that was there is not', async () => {
  const memory = new ArrayBuffer(areaSize(CAPACITY))
  const qemu = new RingEnd(memory, 'qemu', () => {})
  const send = () => expect(qemu.write(MESSAGE, 0, MESSAGE.length)).toBe(MESSAGE.length)
  const looking = new Watched()
  const socket = {
    ...{ sleeps: false, ring() {}, handOver() {}, pause() {}, close() {} },
    ...{ wait: () => 0, read: () => 0 },
  }
  const stream = new RingStream(socket, { memory, free() {} }, Buffer.alloc(0), looking)
  const into = Buffer.alloc(64)
  let got = 0
  send()
  looking.between.push(send, () => {}, send)
  stream.start({ readable: () => (got += stream.read(into, 0)), received() {}, closed() {} })
  await expect.poll(() => got).toBe(3 * MESSAGE.length)
  expect(looking.told).toEqual(['found', 'seen', 'found', 'seen', 'found'])
  stream.close()
})
