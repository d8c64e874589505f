// SPDX-License-Identifier: Apache-2.0
import type { Hello } from '../../protocol/generated/messages.ts'
import { FileMemory } from '../machine/fileMemory.ts'
import type { PolicyFactory, PolicyOptions } from '../policy/policy.ts'
import { SILENT } from '../policy/report.ts'
import type { GuestMemory } from '../smmu/memory.ts'
import { readCheckpoint } from './checkpoint.ts'
import { openRamFile } from './ramFile.ts'

/**
 * Whether a policy would take over a running machine, found out without touching it: hardware answers nothing, memory is
 * only read.
 * @throws Error why not.
 */
export function trial(
  factory: PolicyFactory,
  options: PolicyOptions,
  hello: Hello,
  ramFile: number | string,
  checkpoint: Uint8Array,
): void {
  const envelope = readCheckpoint(checkpoint)
  const opened = openRamFile(hello.ram, ramFile, 'r')
  try {
    const file = opened && new FileMemory(opened.fd, hello.ram)
    const memory: GuestMemory = {
      ram: hello.ram,
      read: (address, target, at, length) => file?.read(address, target, at, length) ?? false,
      write: () => false,
    }
    const policy = factory(
      {
        memory,
        carveout: { base: hello.carveoutBase, size: hello.carveoutSize },
        smmus: hello.smmus.map(({ base, size }) => ({
          base,
          size,
          hardware: { read: () => false, write: () => false },
        })),
        devices: hello.devices,
        guard: { add: () => true, remove: () => true },
      },
      { options, report: SILENT },
    )
    if (policy.name !== envelope.policy) {
      throw new Error(`the machine runs under policy ${envelope.policy}, this is ${policy.name}`)
    }
    policy.state?.restore(envelope.state)
  } finally {
    opened?.close()
  }
}
