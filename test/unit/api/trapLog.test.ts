// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { TrapLog } from '../../../server/api/trapLog.ts'
import { newTrap } from '../../../server/policy/policy.ts'
import { createRing, RingReader, RingWriter } from '../../../server/trace/ring.ts'

test('a trap is not given what was done for another one whose root was lost', () => {
  const buffer = createRing(1 << 16)
  const writer = new RingWriter(buffer)
  const reader = new RingReader(buffer)
  const log = new TrapLog()
  const drain = () => reader.drain((layout, at) => log.fromRing(reader, layout, at))
  writer.command(0, 0x46, 0)
  // Fills the ring: the rest of this trap, and more, is lost.
  for (let i = 0; i < 100; i++) writer.memoryAccess(false, 0, new Uint8Array(4096), 0, 4096, true)
  writer.trap({ ...newTrap(), seq: 1 }, 0, 1, 0, 0)
  drain()
  writer.command(0, 0x12, 0)
  writer.trap({ ...newTrap(), seq: 2 }, 0, 1, 0, 0)
  drain()
  expect(reader.lost).toBeGreaterThan(0)
  expect(log.group(log.next - 1)).toMatchObject({ root: { seq: 2 }, children: [{ kind: 'command', opcode: 0x12 }] })
  expect(log.next - log.oldest).toBe(1)
})
