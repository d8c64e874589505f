// SPDX-License-Identifier: Apache-2.0
import type { SmmuHardware } from '../smmu/hardware.ts'
import { HostView } from './hostView.ts'
import { TableLocator } from './tableLocator.ts'

/** One SMMU of a machine with rules: what every point knows of it. */
export class SmmuFaults {
  readonly index: number
  /** The hypervisor's way to the hardware: faults stand in front of it. */
  readonly port: SmmuHardware
  /** The same without faults. */
  readonly hardware: SmmuHardware
  /** The guest's queues and tables. */
  readonly host = new TableLocator()
  /** The hardware's. */
  readonly shadow = new TableLocator()
  readonly view: HostView
  /** CMDQ_CONS as the hypervisor is to see it, until the guest's clock is there, ns. */
  hang: { readonly pointer: number; readonly until: number } | undefined

  /** Before anything is interposed. */
  constructor(index: number, port: SmmuHardware) {
    this.index = index
    this.port = port
    this.hardware = { read: port.read.bind(port), write: port.write.bind(port) }
    this.view = new HostView(this.hardware)
  }

  reset(): void {
    this.view.reset()
    this.hang = undefined
  }
}
