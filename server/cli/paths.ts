// SPDX-License-Identifier: Apache-2.0
/** Paths that the command line names are looked at while it is read: one that is not there costs no work, and no boot. */
import { accessSync, constants, existsSync, statSync } from 'node:fs'
import { dirname, join, resolve } from 'node:path'
import { type Command, InvalidArgumentError } from 'commander'
import { isQemuVersion, QEMU_VERSIONS, treeVersion } from '../../scripts/setup/index.ts'
import { entryNamed, isFile } from '../faults/catalogue.ts'
import type { SharedFolder } from '../machine/qemu.ts'
import { LATEST, RECORDING, type Run, runNamed } from '../machine/runs.ts'

/** What can be read. @throws InvalidArgumentError */
function readable(path: string): string {
  try {
    accessSync(path, constants.R_OK)
  } catch (error) {
    const denied = (error as NodeJS.ErrnoException).code === 'EACCES'
    throw new InvalidArgumentError(denied ? 'you may not read it' : 'no such file')
  }
  if (statSync(path).isDirectory()) throw new InvalidArgumentError('this is a folder, expected a file')
  return path
}

/** A file to be read: no device and no pipe, which may have no end. @throws InvalidArgumentError */
export function inputFile(path: string): string {
  readable(path)
  if (!statSync(path).isFile()) throw new InvalidArgumentError('not a regular file')
  return path
}

/** A database that may be new. @throws InvalidArgumentError */
export const databaseFile = (path: string): string => (existsSync(path) ? inputFile(path) : path)

/**
 * A recording: `latest`, the name of a run or the beginning of one, a run's folder, or a file.
 * @returns the path of its file @throws InvalidArgumentError
 */
export function inputRecording(text: string): string {
  // A file of the user's may have any name, `latest` for one: `./latest` is that file.
  if (text !== LATEST && (!/^\d{4}-/.test(text) || existsSync(text))) {
    const inside = join(text, RECORDING)
    // The reader of recordings knows what is none.
    return readable(existsSync(inside) ? inside : text)
  }
  try {
    return runNamed(text).recording
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

/** A file to be written, maybe over another one. @throws InvalidArgumentError */
export function outputFile(path: string): string {
  const file = statSync(path, { throwIfNoEntry: false })
  if (file?.isDirectory()) throw new InvalidArgumentError('this is a folder, expected a file')
  try {
    accessSync(file === undefined ? dirname(resolve(path)) : path, constants.W_OK)
  } catch {
    const what = file === undefined ? 'its folder does not exist, or is not writable' : 'you may not write it'
    throw new InvalidArgumentError(what)
  }
  return path
}

/** A folder with files. @throws InvalidArgumentError */
export function folder(path: string): string {
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory() !== true)
    throw new InvalidArgumentError('no such folder')
  return path
}

/** One of the versions of QEMU that set-up knows, a binary, or a source tree. @throws InvalidArgumentError */
export function whichQemu(text: string): string {
  if (isQemuVersion(text)) return text
  if (!existsSync(text)) throw new InvalidArgumentError(`no such file; set-up knows ${QEMU_VERSIONS.join(' and ')}`)
  if (statSync(text).isDirectory()) return qemuSource(text)
  const binary = resolve(inputFile(text))
  try {
    accessSync(binary, constants.X_OK)
  } catch {
    throw new InvalidArgumentError('not executable: expected a qemu-system-aarch64 with the patches, or a source tree')
  }
  return binary
}

/** A source tree of a QEMU that there are patches for. @throws InvalidArgumentError */
export function qemuSource(path: string): string {
  folder(path)
  try {
    treeVersion(path)
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
  return resolve(path)
}

/** A folder for the guest, with `:rw` behind it for one that it may write to. @throws InvalidArgumentError */
export function sharedFolder(text: string): SharedFolder {
  const [, path = '', how] = /^(.*?)(?::(ro|rw))?$/s.exec(text) ?? []
  const writable = how === 'rw'
  folder(path)
  try {
    accessSync(path, constants.R_OK | constants.X_OK | (writable ? constants.W_OK : 0))
  } catch {
    throw new InvalidArgumentError(`you may not ${writable ? 'write to' : 'read'} it`)
  }
  return { path: resolve(path), writable }
}

/** Several files. */
export const inputFiles = (path: string, before: readonly string[] = []): string[] => [...before, inputFile(path)]

/** A file of fault rules, or a name of the catalogue. @throws InvalidArgumentError */
export function faultName(text: string): string {
  if (isFile(text)) return inputFile(text)
  try {
    entryNamed(text)
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
  return text
}

export const faultNames = (text: string, before: readonly string[] = []): string[] => [...before, faultName(text)]

/** Runs by name. */
export function runsByName(text: string, before: readonly Run[] = []): Run[] {
  try {
    return [...before, runNamed(text)]
  } catch (error) {
    throw new InvalidArgumentError((error as Error).message)
  }
}

/** The recording that a command is about. */
export const ofRecording = (command: Command): Command =>
  command.argument('<recording>', `a file, the name of a run, or ${LATEST}`, inputRecording)
