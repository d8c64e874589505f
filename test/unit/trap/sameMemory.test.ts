// SPDX-License-Identifier: Apache-2.0
/** Whether a file is the RAM of a machine, of which nothing but its accesses says so. */
import { expect, test } from 'vitest'
import type { Hello } from '../../../protocol/generated/messages.ts'
import { type GuestMemory, within } from '../../../server/smmu/memory.ts'
import { isSameMemory } from '../../../server/trap/sameMemory.ts'

const BASE = 0x4000_0000
const SIZE = 64 * 2 ** 20
const PAGE = 4096
/** Of the hypervisor. */
const CARVEOUT = { base: BASE + SIZE / 2, size: 2 ** 20 }

class Ram implements GuestMemory {
  readonly ram = [{ base: BASE, size: SIZE }]
  readonly bytes = Buffer.alloc(SIZE)
  writes = 0

  read(address: number, target: Uint8Array, at: number, length: number): boolean {
    if (!within(this.ram, address, length)) return false
    target.set(this.bytes.subarray(address - BASE, address - BASE + length), at)
    return true
  }

  write(address: number, source: Uint8Array, at: number, length: number): boolean {
    this.writes++
    this.bytes.set(source.subarray(at, at + length), address - BASE)
    return true
  }
}

const hello = (resumed: 0 | 1): Hello =>
  ({
    resumed,
    carveoutBase: CARVEOUT.base,
    carveoutSize: CARVEOUT.size,
    ram: [{ base: BASE, size: SIZE, offset: 0, path: '/ram' }],
  }) as unknown as Hello

/** A machine that ran: something in the first page, in a page far behind it, and, or not, in the hypervisor's. */
function machine(carveout: boolean): Ram {
  const ram = new Ram()
  for (const address of [BASE, BASE + 17 * 16 * PAGE, ...(carveout ? [CARVEOUT.base] : [])]) {
    ram.bytes.fill(`at ${address}`, address - BASE, address - BASE + PAGE)
  }
  return ram
}

function copy({ bytes }: Ram, change: (bytes: Buffer) => void = () => {}): Ram {
  const ram = new Ram()
  bytes.copy(ram.bytes)
  change(ram.bytes)
  return ram
}

test('before a machine has run, a file is marked, and left as it was', () => {
  const ram = new Ram()
  expect(isSameMemory(ram, ram, hello(0))).toBe(true)
  expect(ram.bytes.every(byte => byte === 0)).toBe(true)
  expect(isSameMemory(ram, new Ram(), hello(0))).toBe(false)
})

test.each([true, false])('of a machine that runs nothing is written (something in the carve-out: %s)', carveout => {
  const ram = machine(carveout)
  expect(isSameMemory(ram, ram, hello(1))).toBe(true)
  expect(ram.writes).toBe(0)
})

test.each<[string, boolean, (bytes: Buffer) => void]>([
  ['a new file, which is all zeros', false, bytes => bytes.fill(0)],
  ['a new file, and the hypervisor has something', true, bytes => bytes.fill(0)],
  ['a file with another page far behind the first', false, bytes => bytes.write('other', 17 * 16 * PAGE + 100)],
  ['a file with something in the hypervisor’s page alone', false, bytes => bytes.write('x', CARVEOUT.base - BASE)],
])('a machine that runs does not use %s', (_what, carveout, change) => {
  const ram = machine(carveout)
  expect(isSameMemory(copy(ram, change), ram, hello(1))).toBe(false)
})

test.each([
  ['goes there and back while it is looked at, is looked at again', 3, true],
  ['is another each time, is another one', 4, false],
])('a byte that %s', (_, times, same) => {
  const ram = machine(true)
  const wire = copy(ram)
  const read = wire.read.bind(wire)
  let left = times
  wire.read = (address, target, at, length) => {
    const done = read(address, target, at, length)
    if (address === BASE && left-- > 0) target[at + 100] ^= 1
    return done
  }
  expect(isSameMemory(ram, wire, hello(1))).toBe(same)
})

test('where both have nothing but zeros, nobody can say that they are the same', () => {
  expect(isSameMemory(new Ram(), new Ram(), hello(1))).toBe(false)
})
