// SPDX-License-Identifier: Apache-2.0
import { expect, test } from 'vitest'
import { KernelFunctions } from '../../../server/api/kernelFunctions.ts'
import type { LogEntry } from '../../../server/api/trapLog.ts'
import { layouts, u32At } from '../../../server/trace/layout.ts'
import { type FunctionTable, functionTable } from '../../../server/trace/symbols.ts'

const BASE = 0xffff_8000_8000_0000n
/** Functions of different sizes, so that there is one place only at which all traps come from the driver. */
const SIZES = [0x100n, 0x40n, 0x1c0n, 0x80n, 0x240n, 0x60n, 0x300n, 0xa0n, 0x1000n, 0x2000n, 0x5000n, 0x8000n]

function table(): FunctionTable {
  let at = BASE + 0x1_2340n
  return functionTable(
    SIZES.map((size, i) => {
      const address = at
      at += size
      return { address, name: i < 8 ? `arm_smmu_function_${i}` : `other_${i}` }
    }),
  )
}

const layout = (name: string): LogEntry['layout'] => {
  const found = layouts.find(l => l?.name === name)
  if (found === undefined) throw new Error(name)
  return found
}

const IDR0 = 0
const CMDQ_PROD = 0x98

function entry(id: number, name: 'trap' | 'reset', pc = 0n, offset = CMDQ_PROD): LogEntry {
  const words = new Uint32Array(32)
  words[u32At.trap.offset] = offset
  words[u32At.trap.pcLo] = Number(pc & 0xffff_ffffn)
  words[u32At.trap.pcHi] = Number(pc >> 32n)
  return { id, at: 0, layout: layout(name), words, doubles: new Float64Array(words.buffer) }
}

/** The last instruction of each function of the driver, in a kernel that was moved. */
const pcs = (moved: bigint): bigint[] =>
  [...table().addresses].slice(0, 8).map((address, i) => address + (SIZES[i] ?? 0n) - 4n + moved)

test('names appear when the table is there and the traps tell where the kernel is', async () => {
  const asked: string[] = []
  let deliver: (table: FunctionTable) => void = () => {}
  const functions = new KernelFunctions(image => {
    asked.push(image)
    return new Promise(resolve => {
      deliver = resolve
    })
  })
  functions.machine('/image', 1)
  const first = pcs(0x3_0000n)
  first.slice(0, 7).forEach((pc, i) => {
    functions.group(entry(1 + i, 'trap', pc))
  })
  expect(asked).toEqual([]) // nobody asked
  expect(functions.name(1, first[0] ?? 0n)).toBeUndefined()
  expect(asked).toEqual(['/image'])
  deliver(table())
  await new Promise(setImmediate)
  expect(functions.name(1, first[0] ?? 0n)).toBeUndefined() // too few places to tell
  functions.group(entry(8, 'trap', first[7]))
  expect(functions.name(1, first[0] ?? 0n)).toBe('arm_smmu_function_0')
  expect(functions.name(8, first[7] ?? 0n)).toBe('arm_smmu_function_7')
  expect(functions.name(8, 0x1000n)).toBeUndefined()

  // A reset: the kernel is elsewhere, and what the old one did keeps its names.
  functions.group(entry(9, 'reset'))
  const second = pcs(0x77_0000n)
  second.forEach((pc, i) => {
    functions.group(entry(10 + i, 'trap', pc))
  })
  expect(functions.name(12, second[2] ?? 0n)).toBe('arm_smmu_function_2')
  expect(functions.name(3, first[2] ?? 0n)).toBe('arm_smmu_function_2')
  expect(functions.name(3, second[2] ?? 0n)).toBeUndefined()

  // The next machine with the same kernel costs nothing, another one is loaded at once.
  functions.machine('/image', 20)
  expect(asked).toEqual(['/image'])
  functions.machine('/other', 21)
  expect(asked).toEqual(['/image', '/other'])
})

test('no image, or one without symbols: no names, no error', async () => {
  const functions = new KernelFunctions(() => Promise.reject(new Error('no symbol table')))
  functions.machine(undefined, 1)
  expect(functions.name(1, 5n)).toBeUndefined()
  functions.machine('/bare', 2)
  pcs(0n).forEach((pc, i) => {
    functions.group(entry(2 + i, 'trap', pc))
  })
  expect(functions.name(2, pcs(0n)[0] ?? 0n)).toBeUndefined()
  await new Promise(setImmediate)
  expect(functions.name(2, pcs(0n)[0] ?? 0n)).toBeUndefined()
})

test('a kernel that the one before started is somewhere else', async () => {
  const functions = new KernelFunctions(() => Promise.resolve(table()))
  functions.machine('/image', 1)
  functions.want()
  await new Promise(setImmediate)
  let row = 1
  const boot = (moved: bigint, smmus: number) => {
    const all = pcs(moved)
    // Each SMMU is looked at from the same place.
    for (let smmu = 0; smmu < smmus; smmu++) functions.group(entry(row++, 'trap', all[0], IDR0))
    for (const pc of all) functions.group(entry(row++, 'trap', pc))
    return all
  }
  const first = boot(0x3_0000n, 2)
  const second = boot(0x77_0000_0000n, 1)
  expect(functions.name(1, first[0] ?? 0n)).toBe('arm_smmu_function_0')
  expect(functions.name(4, first[3] ?? 0n)).toBe('arm_smmu_function_3')
  expect(functions.name(11, second[0] ?? 0n)).toBe('arm_smmu_function_0')
  expect(functions.name(11, first[0] ?? 0n)).toBeUndefined()
  expect(await functions.offset()).toBe(0x77_0000_0000n)
  // The same kernel looks once more, from elsewhere.
  functions.group(entry(row, 'trap', second[5], IDR0))
  expect(functions.name(row, second[5] ?? 0n)).toBe('arm_smmu_function_5')
  expect(await functions.offset()).toBe(0x77_0000_0000n)
})
