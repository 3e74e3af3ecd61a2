//! `quern image`: docker's words for images, as values.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `quern image`
#[derive(Debug, Subcommand)]
#[command(after_help = "Examples:
  quern image pull debian:12
  quern image ls
  quern image tag app registry.example/app:1
  quern image push registry.example/app:1
  quern image save -o app.tar app
  quern image load -i app.tar
  quern image rm app

An image is named by NAME[:TAG], NAME@DIGEST, or the start of its id.")]
pub enum Image {
    /// List images, newest first
    #[command(visible_alias = "list")]
    Ls(ImageList),
    /// Show images in full, as JSON
    Inspect {
        /// Names or ids
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
    },
    /// Get images from their registries
    Pull {
        /// Names with registry
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// What it shall run on, such as linux/arm64 [default: this machine]
        #[arg(long, value_name = "OS/ARCH")]
        platform: Option<String>,
        /// Print only the names
        #[arg(short, long)]
        quiet: bool,
    },
    /// Upload images to the registries of their names
    Push {
        /// Names with registry
        #[arg(required = true, value_name = "NAME")]
        names: Vec<String>,
        /// Print only the names
        #[arg(short, long)]
        quiet: bool,
    },
    /// Take names away; an image without names goes with the next prune
    #[command(visible_alias = "remove")]
    Rm {
        /// Names or ids
        #[arg(required = true, value_name = "IMAGE")]
        images: Vec<String>,
        /// Take all names of an id away
        #[arg(short, long)]
        force: bool,
    },
    /// Write images to an archive that docker, skopeo and others read
    Save(ImageSave),
    /// Take in the images of an archive or of a directory in OCI's layout
    Load {
        /// Archive or directory [default: standard input]
        #[arg(short, long, value_name = "FILE")]
        input: Option<PathBuf>,
        /// Which of several platforms [default: this machine]
        #[arg(long, value_name = "OS/ARCH")]
        platform: Option<String>,
        /// Print nothing
        #[arg(short, long)]
        quiet: bool,
    },
    /// Give an image another name
    Tag {
        /// Name or id
        #[arg(value_name = "IMAGE")]
        image: String,
        /// The other name
        #[arg(value_name = "NAME[:TAG]")]
        name: String,
    },
}

/// `quern image ls`
#[derive(Debug, Args)]
pub struct ImageList {
    /// Only images of this name, with or without tag
    #[arg(value_name = "NAME[:TAG]")]
    pub name: Option<String>,
    /// Print only ids
    #[arg(short, long)]
    pub quiet: bool,
    /// Show under which digests they were pulled
    #[arg(long)]
    pub digests: bool,
    /// Print ids in full
    #[arg(long)]
    pub no_trunc: bool,
}

/// `quern image save`
#[derive(Debug, Args)]
pub struct ImageSave {
    /// Names or ids
    #[arg(required = true, value_name = "IMAGE")]
    pub images: Vec<String>,
    /// Where to [default: standard output]
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<String>,
    /// For whom
    #[arg(long, value_name = "FORMAT", value_parser = ["docker", "oci"], default_value = "docker")]
    pub format: String,
}
